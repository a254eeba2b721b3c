"""Actors that go from one run of a sweep to the next: engines and ranks start once.

Why not Ray Tune, which queues, retries and restores: it can keep a trial's own actor
(`reuse_actors`), but not after a failure or a restore, and each of its trials is a process of its
own around our actors, with its own start, its own folder names and its own signals. What a sweep
needs of it is small here (a queue, two attempts, a ledger), and runs keep their folders, their
resume and their exit codes.
"""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isentropic.actors.launch import Actors, start_actors
from isentropic.actors.learner_group import RayLearnerGroup
from isentropic.actors.rollout_pool import RayRolloutPool
from isentropic.config import Config, ModelConfig
from isentropic.experiments.run.builders import make_engine, make_learner, settings_of
from isentropic.experiments.run.prepare import Prepared
from isentropic.objectives.loss.needs import needs_reference

# What a run may have of its own on actors that are there: nothing here is built into an engine or a
# model.
OF_A_RUN = {
    "rollout": (
        "prompts_per_step",
        "group_size",
        "max_staleness",
        "segment_tokens",
        "prompts_in_flight",
        "max_lag",
        "top_p",
        "top_k",
        "probe_tolerance",
    ),
    "learner": (
        "updates_per_rollout",
        "microbatch_tokens",
        "lr",
        "lr_schedule",
        "warmup_updates",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_eps",
        "max_grad_norm",
        "max_skipped_updates",
    ),
}


def reuse_key(config: Config, model: ModelConfig) -> str:
    """Return a key: runs that have the same one can follow each other on the same actors.

    model: what the actors load; with a warm start, another than the config's.
    """
    parts: dict[str, Any] = {
        "cluster": asdict(config.cluster),
        "weights": asdict(config.weights),
        "model": asdict(model),
    }
    for section, free in OF_A_RUN.items():
        values = asdict(getattr(config, section))
        parts[section] = {key: value for key, value in values.items() if key not in free}
    return repr(parts | {"reference": needs_reference(config.objective, config.terms)})


@dataclass
class Lent:
    """The actors of a lane, lent to one run; a restarted learner gets this run's objective."""

    actors: Actors
    config: Config

    @property
    def pool(self) -> RayRolloutPool:
        return self.actors.pool

    @property
    def learner(self) -> RayLearnerGroup:
        return self.actors.learner

    async def restart_learner(self) -> None:
        await self.actors.restart_learner()
        await self.actors.learner.configure(**settings_of(self.config))


class Lane:
    """One set of actors at a time.

    Args:
        scratch: a folder that every rank can write; the learner's first state is kept there, to go
            back to.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._actors: Actors | None = None
        self._key = ""
        self.starts = 0

    def fits(self, config: Config, prepared: Prepared) -> bool:
        """Return True if the run could use the actors that are there."""
        return self._actors is not None and self._key == reuse_key(config, prepared.model)

    @asynccontextmanager
    async def lend(self, config: Config, prepared: Prepared) -> AsyncIterator[Lent]:
        """Lend the actors with the weights of the start and the run's objective. An error ends them."""
        try:
            if self.fits(config, prepared):
                await self._actors.learner.configure(**settings_of(config))
                await self._actors.learner.load(self._scratch)
            else:
                await self._start(config, prepared)
            yield Lent(self._actors, config)
        except BaseException:
            # Nobody knows what state they are in.
            self.close()
            raise

    async def _start(self, config: Config, prepared: Prepared) -> None:
        self.close()
        self._actors = await start_actors(
            config.cluster,
            config.rollout,
            config.learner,
            make_engine=make_engine(config, prepared),
            make_learner=make_learner(config, prepared),
            transport=config.weights.transport,
        )
        self.starts += 1
        self._scratch.mkdir(parents=True, exist_ok=True)
        await self._actors.learner.save(self._scratch)
        # Only now: a run that fits goes back to what was saved.
        self._key = reuse_key(config, prepared.model)

    def close(self) -> None:
        """End the actors; no run fits them any more, also if that fails."""
        actors, self._actors, self._key = self._actors, None, ""
        try:
            if actors is not None:
                actors.close()
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
