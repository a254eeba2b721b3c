"""The learner of a replay: one rank in this process, or as many ranks as the run had. No engine."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import ray
import torch

from isentropic.actors.launch import start_explained, start_ranks
from isentropic.actors.learner_group import RayLearnerGroup
from isentropic.actors.ray_runtime import head_answers, start_ray, stop_ray
from isentropic.config import Config, ModelConfig
from isentropic.controller.protocols import LearnerGroup
from isentropic.durable import FileEntry
from isentropic.experiments.run.builders import settings_of
from isentropic.learner.learner import Learner
from isentropic.records import MicroBatch, StepBatch, StepResult, TokenScores


class ReplayLearner(LearnerGroup, Protocol):
    """A group of ranks that can go back to a state, and take another configuration."""

    async def configure(self, **settings: Any) -> None: ...

    async def remember(self) -> None: ...

    async def recall(self) -> None: ...

    async def is_remembered(self) -> bool: ...


class LocalLearner:
    """`ReplayLearner` in this process: one rank, no Ray."""

    num_batches = 1

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    async def score(
        self, batches: Sequence[Sequence[MicroBatch]], *, reference: bool
    ) -> list[list[TokenScores]]:
        return [self._learner.score(batches[0], reference=reference)]

    async def update(self, batches: Sequence[StepBatch]) -> list[StepResult]:
        return [self._learner.update(batches[0])]

    async def begin_save(self, folder: Path) -> None:
        self._learner.begin_save(folder)

    async def end_save(self) -> dict[str, FileEntry]:
        return self._learner.end_save()

    async def load(self, folder: Path) -> None:
        self._learner.load(folder)

    async def configure(self, **settings: Any) -> None:
        self._learner.configure(**settings)

    async def remember(self) -> None:
        self._learner.remember()

    async def recall(self) -> None:
        self._learner.recall()

    async def is_remembered(self) -> bool:
        return self._learner.is_remembered()


@asynccontextmanager
async def replay_learner(
    config: Config, model: ModelConfig, *, exact: bool, reference: bool
) -> AsyncIterator[ReplayLearner]:
    """A learner with the weights of the start.

    exact: as many ranks as `config` says, so that sums have the recorded order and all bits are
        equal. Else one rank in this process, which starts sooner and differs by rounding.
    """
    make = partial(
        Learner,
        **settings_of(config),
        model=model,
        temperature=config.rollout.temperature,
        reference=reference,
        seed=config.seed,
    )
    if not exact or (config.learner.num_ranks == 1 and not config.cluster.gpus_per_rank):
        # As many threads as a rank's process has: the order of sums depends on them.
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, int(config.cluster.cpus_per_rank)))
        learner = make(config=config.learner.on_one_rank())
        try:
            yield LocalLearner(learner)
        finally:
            learner.close()
            torch.set_num_threads(threads)
        return
    async with _ranks(config, make) as group:
        yield group


@asynccontextmanager
async def _ranks(config: Config, make: partial[Learner]) -> AsyncIterator[RayLearnerGroup]:
    cluster, count = config.cluster, config.learner.num_ranks
    own_ray = not ray.is_initialized() and start_ray(
        cluster, num_cpus=count * cluster.cpus_per_rank
    )
    place = {"num_cpus": cluster.cpus_per_rank, "num_gpus": cluster.gpus_per_rank}
    actors = start_ranks(make, [place] * count, own_ray=own_ray)
    group = RayLearnerGroup(
        actors,
        dtype=config.rollout.dtype,
        timeout_s=config.learner.timeout_s,
        context_parallel=config.learner.context_parallel,
    )
    try:
        with start_explained():
            await group.setup(config.cluster.startup_timeout_s)
        yield group
    finally:
        # Without its head, Ray hangs for a minute in this call and then ends this process.
        if head_answers():
            group.close()
        if own_ray:
            stop_ray()
