"""The training loop: the way of the data, once a step. State lives here and in the learner; both are checkpointed."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from isentropic.config import Config
from isentropic.controller.feed import Delivery, Evaluation, Feed
from isentropic.controller.learner_client import LearnerClient, Stopwatch, Update
from isentropic.controller.method import Method
from isentropic.controller.protocols import LearnerGroup, LearnerLost
from isentropic.controller.reporting import Reporter, probe_gap
from isentropic.controller.storage import checkpoints
from isentropic.controller.storage.saving import Saver
from isentropic.controller.storage.trained import write_trained
from isentropic.durable import when_there_is_room
from isentropic.methods.entropy_coefficient import TermCoefficients
from isentropic.metrics.entropy import first_wave
from isentropic.metrics.prediction import recheck_subset
from isentropic.records import Rollout, RolloutKey, Sample, TokenScores

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Step:
    """All that one step did, for the report of it."""

    step: int
    policy_version: int  # before its updates
    delivery: Delivery
    scores: dict[RolloutKey, TokenScores]  # old-policy pass over everything drawn
    probe: list[Rollout] = field(
        default_factory=list
    )  # sampled right after the syncs that this step saw
    samples: list[Sample] = field(default_factory=list)  # trained on, replay not included
    updates: list[Update] = field(default_factory=list)
    replayed: list[Update] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)  # of the method's stages
    rechecked: dict[RolloutKey, TokenScores] = field(
        default_factory=dict
    )  # a share of `scores`, after the updates
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
        method: Method,
        reporter: Reporter,
        folder: Path,
        warn: Callable[[str], None] = log.warning,
    ) -> None:
        self._config, self._learner, self._feed, self._reporter = config, learner, feed, reporter
        self._client = LearnerClient(config, learner)
        self._method, feed.candidates = method, method.candidates
        self._terms = TermCoefficients(config.terms)
        self._saver = Saver(config, learner, folder / "checkpoints", warn)
        self._trained = folder / "trained"
        self._step = 0
        self._version = 0
        self._skipped = 0  # updates in a row
        self._stop: str | None = None

    def request_stop(self, reason: str) -> None:
        """The run ends after the step under way, with a checkpoint."""
        self._stop = self._stop or reason

    @property
    def stopped(self) -> str | None:
        """Why the run ended before its last step; None where it did not."""
        return self._stop

    async def run(self, resume: tuple[Path, checkpoints.Manifest] | None = None) -> None:
        """All steps, from the start or from a checkpoint. On LearnerLost, what was being drawn is in the ledger."""
        next_draw = await self._restore(*resume) if resume else 0
        self._feeding = asyncio.create_task(self._feed.run(self._step, next_draw))
        try:
            self._feed.publish(self._step, await self._learner.publish())
            if self._step == 0:
                await self._report_start()
            while self._step < self._config.run.steps and self._stop is None:
                await self._run_step(self._step + 1)
            await self._saver.finish()
        except LearnerLost:
            with suppress(
                Exception
            ):  # the lost learner is the cause, whatever the engines say of it
                await self._fed(self._feed.settled())
            raise
        except asyncio.CancelledError:
            self._saver.cancel()
            raise
        finally:
            self._feeding.cancel()
            await asyncio.gather(self._feeding, self._saver.settle(), return_exceptions=True)

    async def _run_step(self, step: int) -> None:
        await self._saver.look()
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
            if step == self._config.run.steps:
                await self._check_probe(record, step)
        watch.seconds["step"] = time.perf_counter() - begin
        await asyncio.to_thread(
            when_there_is_room, partial(write_trained, self._trained, step, record.samples)
        )
        decision = await asyncio.to_thread(self._reporter.step, record)
        if decision.stop:
            self.request_stop(decision.stop)
        await self._checkpoint_if_due(decision.checkpoint)
        self._feed.forget(step)

    async def _train(self, step: int, delivery: Delivery, watch: Stopwatch) -> Step:
        groups = delivery.batch.groups
        with watch("old_logprob"):
            teachers = self._method.candidates(groups, delivery.batch.teachers)
            drawn = [*delivery.batch.rollouts, *teachers]
            probing = self._feed.probe(step - 1)
            early = probing.result() if probing.done() else []
            scores = await self._client.score(drawn)
            scores |= await self._client.score(
                early, reference=False
            )  # packed apart: it depends on timing
        record = Step(step=step, policy_version=self._version, delivery=delivery, scores=scores)
        if (
            early or self._config.rollout.max_staleness == 1
        ):  # beyond 1 the engines are behind: their version has gone
            await self._check_probe(record, step - 1)
        entropy = mean_entropy(delivery.batch.rollouts, scores)
        selected = self._method.select(groups, scores, teachers)
        with watch("old_logprob"):
            queued = await self._client.rescore(self._method.take(step, selected.samples))
        weighed = self._method.weigh(queued, entropy)
        record.samples, record.metrics = weighed.samples, selected.metrics | weighed.metrics
        with watch("update"):
            record.updates = await self._update(step, weighed.samples)
            self._method.trained(step, weighed.samples)
            await self._replay(record)
        record.metrics |= self._method.metrics(step) | self._terms.observe(entropy)
        return record

    async def _check_probe(self, record: Step, source: int) -> None:
        """The engines have the learner's weights, or nothing more is trained on what they draw."""
        probe = await self._fed(self._feed.probe(source))
        missing = [rollout for rollout in probe if rollout.key not in record.scores]
        record.scores |= await self._client.score(missing, reference=False)
        record.probe += probe
        gap, limit = probe_gap(probe, record.scores), self._config.rollout.probe_tolerance
        if gap > limit:
            raise RuntimeError(
                f"after the last sync the engines' logprobs are {gap:.3g} nats off the learner's on the same tokens; "
                f"rollout.probe_tolerance={limit:g} is allowed. Either the weights did not arrive whole, or the two "
                "compute in different precision: compare rollout.dtype with learner.dtype before raising the limit."
            )

    async def _update(self, step: int, samples: list[Sample], first: int = 0) -> list[Update]:
        updates, self._version = await self._client.update(
            step,
            samples,
            count=self._method.updates(samples, self._config.learner.updates_per_rollout),
            term_coefficients=self._terms.at(step),
            version=self._version,
            first=first,
        )
        for update in updates:
            self._skipped = self._skipped + 1 if update.skipped else 0
            if self._skipped > self._config.learner.max_skipped_updates:
                raise RuntimeError(
                    f"{self._skipped} updates in a row (the last in step {step}) had a gradient or loss that is not "
                    f"finite; learner.max_skipped_updates={self._config.learner.max_skipped_updates} are allowed. The "
                    f"weights are still those of policy version {self._version}, and the step's rollouts are in the "
                    "ledger. Lower learner.lr, look at the step's longest responses, or use learner.dtype=float32."
                )
        return updates

    async def _replay(self, record: Step) -> None:
        """Updates on stored samples, and what they do to the entropy of a hashed share of the step's own contexts."""
        samples = self._method.replay(record.step)
        if not samples:
            return
        drawn = first_wave(record.delivery.batch.rollouts)
        contexts = recheck_subset(drawn, self._config.accounting.recheck_share, self._config.seed)
        before = await self._client.score(contexts, reference=False)
        record.replayed = await self._update(record.step, samples, len(record.updates))
        after = await self._client.score(contexts, reference=False)
        if contexts:
            record.metrics["replay/entropy_before"] = mean_entropy(contexts, before)
            record.metrics["replay/entropy_after"] = mean_entropy(contexts, after)

    async def _recheck(self, record: Step, watch: Stopwatch) -> None:
        """Entropy after the updates, on a hashed share of the contexts the step trained on."""
        with watch("recheck"):
            record.rechecked = await self._client.score(
                self._reporter.recheck(record), reference=False
            )

    async def _report_start(self) -> None:
        """Line 0: evaluation, and entropy of the start."""
        evaluation = await self._fed(self._feed.evaluation(0))
        rollouts = [rollout for group in evaluation.start for rollout in group.rollouts]
        scores = await self._client.score(rollouts, reference=False)
        await asyncio.to_thread(self._reporter.start, evaluation, scores)

    async def _checkpoint_if_due(self, wanted: bool) -> None:
        every, step, last = self._config.checkpoint.every, self._step, self._config.run.steps
        if not (wanted or step == last or self._stop or (every > 0 and step % every == 0)):
            return
        drawn = min(step + self._config.rollout.max_staleness, last)
        next_draw = (await self._fed(self._feed.batch(drawn))).batch.next_draw
        manifest = checkpoints.Manifest(
            step=step,
            policy_version=self._version,
            next_draw=next_draw,
            about=self._reporter.about,
            files={},
        )
        state = {
            "method": self._method.state_dict(),
            "terms": self._terms.state_dict(),
            "reporter": self._reporter.state_dict(),
        }
        await self._saver.begin(
            manifest, state, self._reporter.best_steps(self._config.checkpoint.keep_best)
        )

    async def _restore(self, checkpoint: Path, manifest: checkpoints.Manifest) -> int:
        state = checkpoints.read_state(checkpoint)
        await self._learner.load(checkpoint / "learner")
        self._method.load_state_dict(
            state.get("method") or state["teaching"]
        )  # the name before 0.2
        self._terms.load_state_dict(state["terms"])
        self._reporter.load_state_dict(state["reporter"])
        self._step, self._version = manifest.step, manifest.policy_version
        return manifest.next_draw

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
