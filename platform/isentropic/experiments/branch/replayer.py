"""Recorded steps, trained again: the controller's own step, with the ledger in the place of the engines."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from isentropic.config import Config
from isentropic.controller.feed import Delivery
from isentropic.controller.learner_client import Stopwatch
from isentropic.controller.loop import Controller, Step
from isentropic.controller.method import Method
from isentropic.controller.reporting import Reporter
from isentropic.controller.sampler import Clock
from isentropic.controller.storage.checkpoints import Manifest
from isentropic.controller.storage.ledger import Batch
from isentropic.experiments.branch.learner import ReplayLearner, settings_of
from isentropic.experiments.run.prepare import Prepared
from isentropic.experiments.run.recorded import RecordedRun
from isentropic.records import Rollout, RolloutKey, TokenScores

# What a replay cannot have: it took another time, and no engine.
NOT_REPLAYED = ("time/", "throughput/", "mismatch/", "sync/", "eval/")


class NoFeed:
    """A feed without engines: batches are handed in, no probe was ever sampled."""

    @staticmethod
    def probe(source: int) -> asyncio.Future[list[Rollout]]:
        done: asyncio.Future[list[Rollout]] = asyncio.get_running_loop().create_future()
        done.set_result([])
        return done


class Lines:
    """Takes the lines of a reporter and keeps the last."""

    def __init__(self) -> None:
        self.line: dict[str, Any] = {}
        self.updates: list[dict[str, Any]] = []

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        self.line = {"step": step} | metrics

    def log_updates(self, step: int, rows: list[dict[str, Any]]) -> None:
        self.updates = rows

    def log_alarm(self, record: dict[str, Any]) -> None:
        pass


class Replayer(Controller):
    """Trains steps of a recorded run again, under its config or another, from any state of its learner.

    Owns what a controller owns: step, policy version, the state of reweighting, reuse and loss terms. The learner's
    state is the caller's business.
    """

    def __init__(
        self, config: Config, learner: ReplayLearner, prepared: Prepared, *, order: int = 0
    ) -> None:
        """order: 0 puts prompts into updates as the run did, any other number in another way."""
        method = Method(config)
        method.bind(chat=prepared.chat, task=prepared.task, model_path=prepared.model.path)
        self.lines = Lines()
        super().__init__(
            config=config,
            learner=learner,
            feed=NoFeed(),
            method=method,
            reporter=Reporter(config, self.lines, [], about={}),
            folder=Path(),
        )
        self._client.order = order
        self._feeding = asyncio.get_running_loop().create_future()  # never fails: there is no feed

    @property
    def step(self) -> int:
        """The last step trained; 0 is the start."""
        return self._step

    async def configure(self) -> None:
        """The learner gets this replayer's objective and hyper-parameters; its weights stay, AdamW starts afresh."""
        await self._learner.configure(**settings_of(self._config))

    async def restore(self, checkpoint: Path, manifest: Manifest) -> None:
        """The state of a checkpoint, in the learner too."""
        await self._restore(checkpoint, manifest)

    def follow(self, other: "Replayer") -> None:
        """The state of another replayer, as far as both have the same slots."""
        own, theirs = self._method.state_dict(), other._method.state_dict()
        for slot in own:
            if getattr(self._config, slot) == getattr(other._config, slot):
                own[slot] = theirs[slot]
        self._method.load_state_dict(own)
        if self._config.terms == other._config.terms:
            self._terms.load_state_dict(other._terms.state_dict())
        self._step, self._version, self._skipped = other._step, other._version, other._skipped

    async def train(self, batch: Batch) -> Step:
        """The step of `batch`: old-policy pass, the method's stages, its updates. No report."""
        assert batch.step == self._step + 1, f"step {batch.step} does not follow step {self._step}"
        record = await self._train(batch.step, Delivery(batch, Clock()), Stopwatch())
        self._step, record.seconds = batch.step, {"step": 0.0}
        return record

    async def report(self, record: Step) -> dict[str, Any]:
        """The line of metrics.jsonl that the step would have written, as far as it needs no engine."""
        await self._recheck(record, Stopwatch())
        self._reporter.step(record)
        return {
            key: value for key, value in self.lines.line.items() if not key.startswith(NOT_REPLAYED)
        }

    async def score(self, rollouts: Sequence[Rollout]) -> dict[RolloutKey, TokenScores]:
        """Token statistics under the current weights."""
        return await self._client.score(rollouts, reference=False)


async def walk_to(run: RecordedRun, replayer: Replayer, step: int, *, exact: bool = False) -> int:
    """Brings a replayer of the recorded config to the state after `step`; the number of steps it had to train.

    From its own state or a checkpoint, whichever is nearer, through the recorded steps between. `exact` reports them
    too, so that running statistics of the reporter are those of the run.

    Raises:
        ValueError: the ledger lacks a step between.
    """
    nearest = run.checkpoint_before(step)
    if nearest is not None and nearest[1].step > replayer.step:
        await replayer.restore(*nearest)
    trained = 0
    while replayer.step < step:
        record = await replayer.train(run.batch(replayer.step + 1))
        if exact:
            await replayer.report(record)
        trained += 1
    return trained


def without_panel(config: Config) -> Config:
    """The config without the panel of counterfactual objectives: a comparison that trains them needs no guess."""
    return replace(config, accounting=replace(config.accounting, counterfactuals={}))
