"""The training loop: the way of the data, once a step. State lives here and in the learner; both are checkpointed."""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from isentropic.config import Config
from isentropic.controller import checkpoints
from isentropic.controller.feed import Delivery, Evaluation, Feed
from isentropic.controller.learning import Learning, Stopwatch, Update
from isentropic.controller.protocols import LearnerGroup
from isentropic.controller.reporting import Reporter
from isentropic.controller.teaching import Teaching
from isentropic.methods.entropy_coefficient import TermCoefficients
from isentropic.records import Rollout, RolloutKey, Sample, TokenScores

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Step:
    """All that one step did, for the report of it."""

    step: int
    policy_version: int  # before its updates
    delivery: Delivery
    scores: dict[RolloutKey, TokenScores]  # old-policy pass over everything drawn
    samples: list[Sample] = field(default_factory=list)  # trained on, replay not included
    updates: list[Update] = field(default_factory=list)
    replayed: list[Update] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)  # of the method's stages
    rechecked: dict[RolloutKey, TokenScores] = field(default_factory=dict)  # a share of `scores`, after the updates
    evaluation: Evaluation | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class Controller:
    """Runs the steps of one run; everything it talks to is handed in."""

    def __init__(
        self,
        *,
        config: Config,
        learner: LearnerGroup,
        feed: Feed,
        teaching: Teaching,
        reporter: Reporter,
        folder: Path,
    ) -> None:
        self._config, self._learner, self._feed, self._reporter = config, learner, feed, reporter
        self._learning = Learning(config, learner)
        self._teaching = teaching
        self._terms = TermCoefficients(config.terms)
        self._checkpoints = folder / "checkpoints"
        self._step = 0
        self._version = 0
        self._stop: str | None = None

    def request_stop(self, reason: str) -> None:
        """The run ends after the step under way, with a checkpoint."""
        self._stop = self._stop or reason

    @property
    def stopped(self) -> str | None:
        """Why the run ended before its last step; None where it did not."""
        return self._stop

    async def run(self, resume: tuple[Path, checkpoints.Manifest] | None = None) -> None:
        """All steps, from the start or from a checkpoint."""
        next_draw = await self._restore(*resume) if resume else 0
        self._feeding = asyncio.create_task(self._feed.run(self._step, next_draw))
        try:
            self._feed.publish(self._step, await self._learner.publish())
            if self._step == 0:
                await self._report_start()
            while self._step < self._config.run.steps and self._stop is None:
                await self._run_step(self._step + 1)
        finally:
            self._feeding.cancel()
            await asyncio.gather(self._feeding, return_exceptions=True)

    async def _run_step(self, step: int) -> None:
        begin, watch = time.perf_counter(), Stopwatch()
        with watch("waited"):
            delivery = await self._fed(self._feed.batch(step))
        record = await self._train(step, delivery, watch)
        shared = self._config.cluster.placement == "shared"
        if shared:
            await self._recheck(record, watch)
        with watch("publish"):
            self._feed.publish(step, await self._learner.publish())
        if not shared:
            await self._recheck(record, watch)
        self._step, record.seconds = step, watch.seconds
        if self._feed.evaluates(step):
            record.evaluation = await self._fed(self._feed.evaluation(step))
            record.scores |= await self._learning.score(record.evaluation.probe, reference=False)
        watch.seconds["step"] = time.perf_counter() - begin
        decision = await asyncio.to_thread(self._reporter.step, record)
        if decision.stop:
            self.request_stop(decision.stop)
        await self._checkpoint_if_due(decision.checkpoint)
        self._feed.forget(step)

    async def _train(self, step: int, delivery: Delivery, watch: Stopwatch) -> Step:
        groups = delivery.batch.groups
        with watch("old_logprob"):
            drawn = [*delivery.batch.rollouts, *self._teaching.candidates(groups)]
            scores = await self._learning.score([*drawn, *delivery.probe])
        record = Step(step=step, policy_version=self._version, delivery=delivery, scores=scores)
        entropy = mean_entropy(delivery.batch.rollouts, scores)
        taught = self._teaching.select(groups, scores)
        with watch("old_logprob"):
            queued = await self._learning.rescore(self._teaching.take(step, taught.samples))
        weighed = self._teaching.weigh(queued, entropy)
        record.samples, record.metrics = weighed.samples, taught.metrics | weighed.metrics
        with watch("update"):
            record.updates = await self._update(step, weighed.samples)
            self._teaching.trained(step, weighed.samples)
            record.replayed = await self._update(step, self._teaching.replay(step), len(record.updates))
        record.metrics |= self._teaching.metrics(step) | self._terms.observe(entropy)
        return record

    async def _update(self, step: int, samples: list[Sample], first: int = 0) -> list[Update]:
        coefficients = self._terms.at(step)
        updates, self._version = await self._learning.update(step, samples, coefficients, self._version, first)
        return updates

    async def _recheck(self, record: Step, watch: Stopwatch) -> None:
        """Entropy after the updates, on a hashed share of the contexts the step trained on."""
        with watch("recheck"):
            record.rechecked = await self._learning.score(self._reporter.recheck(record), reference=False)

    async def _report_start(self) -> None:
        """Line 0: evaluation, and entropy of the start."""
        evaluation = await self._fed(self._feed.evaluation(0))
        rollouts = [rollout for group in evaluation.start for rollout in group.rollouts]
        scores = await self._learning.score([*rollouts, *evaluation.probe], reference=False)
        await asyncio.to_thread(self._reporter.start, evaluation, scores)

    async def _checkpoint_if_due(self, wanted: bool) -> None:
        every, step, last = self._config.checkpoint.every, self._step, self._config.run.steps
        if not (wanted or step == last or self._stop or (every > 0 and step % every == 0)):
            return
        drawn = min(step + self._config.rollout.max_staleness, last)
        await self.save((await self._fed(self._feed.batch(drawn))).batch.next_draw)

    async def save(self, next_draw: int) -> None:
        """A checkpoint of the state after the current step."""
        temporary = checkpoints.begin(self._checkpoints, self._step)
        await self._learner.save(temporary / "learner")
        state = {
            "teaching": self._teaching.state_dict(),
            "terms": self._terms.state_dict(),
            "reporter": self._reporter.state_dict(),
        }
        await asyncio.to_thread(
            checkpoints.commit, self._checkpoints, temporary, lambda files: self._manifest(files, next_draw), state
        )
        keep = self._config.checkpoint
        checkpoints.prune(self._checkpoints, keep.keep_last, self._reporter.best_steps(keep.keep_best))

    async def _restore(self, checkpoint: Path, manifest: checkpoints.Manifest) -> int:
        state = checkpoints.read_state(checkpoint)
        await self._learner.load(checkpoint / "learner")
        self._teaching.load_state_dict(state["teaching"])
        self._terms.load_state_dict(state["terms"])
        self._reporter.load_state_dict(state["reporter"])
        self._step, self._version = manifest.step, manifest.policy_version
        return manifest.next_draw

    def _manifest(self, files: dict[str, Any], next_draw: int) -> checkpoints.Manifest:
        return checkpoints.Manifest(
            step=self._step,
            policy_version=self._version,
            next_draw=next_draw,
            about=self._reporter.about,
            files=files,
        )

    async def _fed(self, awaitable: Awaitable[T]) -> T:
        """`awaitable` of the feed, or the error that stopped the feed."""
        waiting = asyncio.ensure_future(awaitable)
        await asyncio.wait({waiting, self._feeding}, return_when=asyncio.FIRST_COMPLETED)
        if self._feeding.done() and self._feeding.exception() is not None:
            waiting.cancel()
            self._feeding.result()
        return await waiting


def mean_entropy(rollouts: list[Rollout], scores: dict[RolloutKey, TokenScores]) -> float:
    """Nats a token, over every response token of first waves, teachers left out, whatever the filter does later."""
    entropies = [scores[rollout.key].entropy for rollout in rollouts if rollout.key.wave == 0]
    tokens = sum(len(entropy) for entropy in entropies)
    return float(sum(entropy.sum(dtype="float64") for entropy in entropies) / max(tokens, 1))
