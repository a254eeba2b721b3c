"""The schedule of a run: what happens in a step, in which order. Start reading here.

`feed.py` decides what is drawn under which weights, `trainer.py` how a step is trained, and
`reporting.py` which numbers it leaves. The state of a run lies in the trainer, the reporter and the
learner; every checkpoint has all three.
"""

import asyncio
import copy
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from isentropic.config import Config
from isentropic.controller.drawing.flight import left_over
from isentropic.controller.feed import Feed
from isentropic.controller.probe import check_probe
from isentropic.controller.protocols import LearnerGroup, LearnerLost
from isentropic.controller.reporting import Reporter
from isentropic.controller.step import Step, Stopwatch
from isentropic.controller.storage import checkpoints
from isentropic.controller.storage.aside import ASIDE, set_checkpoints_aside
from isentropic.controller.storage.attribution import write_attribution
from isentropic.controller.storage.fates import write_fates
from isentropic.controller.storage.saving import Reported, Saver
from isentropic.controller.trainer import Trainer
from isentropic.durable import when_there_is_room
from isentropic.metrics.sinks.jsonl import read_lines

T = TypeVar("T")

log = logging.getLogger(__name__)


class Controller:
    """Runs the steps of one run; everything it talks to is handed in."""

    def __init__(
        self,
        *,
        config: Config,
        learner: LearnerGroup,
        trainer: Trainer,
        feed: Feed,
        reporter: Reporter,
        folder: Path,
        metadata: dict[str, Any],
        warn: Callable[[str], None] = log.warning,
        phase: Callable[[str], None] = lambda phase: None,
        begun: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            folder: of the run.
            metadata: what the manifest of every checkpoint says of the run.
            warn: takes each warning, for people to read.
            phase: takes the name of what begins now, for people to read.
            begun: called when the state is there and nothing is drawn or trained yet.
        """
        self._config = config
        self._learner = learner
        self._trainer = trainer
        self._feed = feed
        self._reporter = reporter
        self._metadata = metadata
        self._warn = warn
        self._folder = folder
        self._saver = Saver(config, learner, folder / "checkpoints", warn)
        self._trained = folder / "trained"
        self._attribution = folder / "attribution"
        self._phase = phase
        self._begun = begun
        self._stop: str | None = None
        self._unreported: Step | None = None  # trained, its evaluation under way
        self._saving: asyncio.Future[Reported] | None = None  # its checkpoint waits for its line
        self._checkpoint_wanted = False  # by an alarm
        self._said_rate_is_0 = False

    def request_stop(self, reason: str) -> None:
        """Ends the run after the step under way, with a checkpoint."""
        self._stop = self._stop or reason

    @property
    def stopped(self) -> str | None:
        """Why the run ended before its last step; None if it did not."""
        return self._stop

    async def run(self, resume: tuple[Path, checkpoints.Manifest] | None = None) -> None:
        """Runs all steps, from the start or from a checkpoint.

        Raises LearnerLost only when what was being drawn is in the ledger, so that a new controller
        draws nothing again.
        """
        next_draw = await self._restore(*resume) if resume else 0
        self._leave_behind()
        self._begun()
        self._feeding = asyncio.create_task(self._feed.run(self._trainer.step, next_draw))
        try:
            self._feed.publish(self._trainer.step, await self._learner.publish())
            if self._trainer.step == 0:
                await self._report_start()
            self._feed.finish(self._trainer.step)
            while self._trainer.step < self._config.run.steps and self._stop is None:
                await self._run_step(self._trainer.step + 1)
            await self._report_the_last(Stopwatch())
            await self._saver.finish()
            if self._stop is None and (left := left_over(self._feed.flight)):
                self._warn(left)
        except Exception as error:
            if isinstance(error, LearnerLost):
                # It is the cause, whatever the engines say of it.
                with suppress(Exception):
                    await self._fed(self._feed.settled())
            await self._report_if_evaluated()
            raise
        except asyncio.CancelledError:
            self._saver.cancel()
            raise
        finally:
            self._feeding.cancel()
            if self._saving is not None:
                self._saving.cancel()  # the line that it waits for is never written
            await asyncio.gather(self._feeding, self._saver.settle(), return_exceptions=True)

    def _leave_behind(self) -> None:
        """Sets checkpoints of later steps aside: the run trains these steps again."""
        steps = set_checkpoints_aside(self._folder, self._trainer.step)
        if steps:
            self._warn(
                f"the run goes on after step {self._trainer.step}: its later checkpoints "
                f"({', '.join(map(str, steps))}) are set aside under {self._folder / ASIDE}. Each "
                "is removed when the run has saved its step again."
            )

    async def _run_step(self, number: int) -> None:
        """Delivers, scores, checks the probe, trains, publishes, evaluates, reports and saves.

        Where the next step may train beside the evaluation, that step reports this one.
        """
        await self._saver.look()
        watch = Stopwatch(self._phase)
        with watch("waited"):
            delivery = await self._fed(self._feed.batch(number))

        probe = self._feed.probe_so_far(number - 1)
        step = await self._trainer.score(delivery, probe, watch)
        # With staleness 1 the engines are about to sample the probe. Beyond 1 they draw another
        # step first; by then the updates below have replaced the weights that it belongs to.
        if probe or self._config.rollout.max_staleness == 1:
            await self._check_probe(step, number - 1)
        await self._trainer.train(step)
        self._say_if_rate_is_0(step)
        await self._report_the_last(watch)
        self._reporter.begin(step)

        # Engines on the learner's GPUs may evaluate once weights are published, and have its memory
        # then: it measures before that. Engines on GPUs of their own draw on while it measures.
        shared = self._config.cluster.placement == "shared"
        if shared:
            await self._trainer.recheck(step)
        with watch("publish"):
            self._feed.publish(number, await self._learner.publish())
        if not shared:
            await self._trainer.recheck(step)

        later = self._reports_later(number)
        if self._feed.evaluates(number) and not later:
            with watch("evaluating"):
                step.evaluation = await self._fed(self._feed.evaluation(number))
            if number == self._config.run.steps:
                await self._check_probe(step, number)
        watch.stop()

        write = partial(write_fates, self._trained, number, step.fates.values())
        await asyncio.to_thread(when_there_is_room, write)
        if later:
            self._unreported = step
        else:
            await self._report(step)
        await self._checkpoint_if_due(number)
        if not later:
            self._feed.finish(number)

    def _reports_later(self, number: int) -> bool:
        """Whether the next step trains while the engines evaluate the weights after this one."""
        return (
            self._config.rollout.max_staleness > 0
            and self._feed.evaluates(number)
            and number < self._config.run.steps
            and self._stop is None
        )

    async def _report_the_last(self, watch: Stopwatch) -> None:
        """Reports the step before, if it is not: its evaluation had the time of a training."""
        step = self._unreported
        if step is None:
            return
        with watch("waited"):
            step.evaluation = await self._fed(self._feed.evaluation(step.step))
        self._unreported = None
        with watch.aside():
            await self._report(step)
        self._feed.finish(step.step)

    async def _report_if_evaluated(self) -> None:
        """Writes the line of the step before the one that failed, if its evaluation is there.

        Its checkpoint waits for the line: without it the run would go on from an earlier one.
        """
        step, self._unreported = self._unreported, None
        if step is None:
            return
        step.evaluation = self._feed.evaluation_so_far(step.step)
        if step.evaluation is not None:
            # What ended the run is said, not what follows from it.
            with suppress(Exception):
                await self._report(step)
                await self._saver.finish()

    async def _report(self, step: Step) -> None:
        """Writes the line of a step, and notes what its alarms ask for."""
        decision = await asyncio.to_thread(self._reporter.step, step)
        if step.attribution:
            write = partial(write_attribution, self._attribution, step.step, step.attribution)
            await asyncio.to_thread(when_there_is_room, write)
        # After the last step there is nothing to stop.
        if decision.stop and self._trainer.step < self._config.run.steps:
            self.request_stop(decision.stop)
        self._checkpoint_wanted |= decision.checkpoint
        if self._saving is not None:
            self._saving.set_result(self._report_state(step.step))
            self._saving = None

    def _say_if_rate_is_0(self, step: Step) -> None:
        """Says once that updates move nothing, unless `learner.lr` asked for it."""
        rates = [update.learning_rate for update in [*step.updates, *step.replayed]]
        if self._said_rate_is_0 or 0 not in rates or self._config.learner.lr == 0:
            return
        self._said_rate_is_0 = True
        self._warn(
            f"the learning rate is 0 from step {step.step} on: the run has made more updates than "
            f"learner.lr_schedule={self._config.learner.lr_schedule} was planned for (run.steps * "
            "learner.updates_per_rollout). The steps that are left train nothing."
        )

    async def _check_probe(self, step: Step, source: int) -> None:
        """Raises RuntimeError if the engines drew with other weights than those after `source`."""
        probe = await self._fed(self._feed.probe(source))
        missing = [rollout for rollout in probe if rollout.key not in step.scores]
        step.scores |= await self._trainer.score_rollouts(missing)
        step.probe += probe
        rollout, learner = self._config.rollout, self._config.learner
        exact = rollout.dtype == learner.dtype == "float32"
        check_probe(probe, step.scores, rollout.probe_tolerance, exact=exact)

    async def _report_start(self) -> None:
        """Writes line 0: evaluation, and entropy of the start."""
        self._phase("first evaluation")
        evaluation = await self._fed(self._feed.evaluation(0))
        rollouts = [rollout for group in evaluation.start for rollout in group.rollouts]
        scores = await self._trainer.score_rollouts(rollouts)
        await asyncio.to_thread(self._reporter.start, evaluation, scores)

    async def _checkpoint_if_due(self, step: int) -> None:
        """Begins a checkpoint; that of a step without its line is complete when it has one."""
        every = self._config.checkpoint.every
        last = step == self._config.run.steps
        wanted, self._checkpoint_wanted = self._checkpoint_wanted, False
        if not (wanted or last or self._stop or (every > 0 and step % every == 0)):
            return
        manifest = checkpoints.Manifest(
            step=step,
            policy_version=self._trainer.policy_version,
            next_draw=await self._fed(self._feed.next_draw(step)),
            about=self._metadata,
            files={},
        )
        await self._saver.finish()  # what is still being written may be the best
        reported: asyncio.Future[Reported] = asyncio.get_running_loop().create_future()
        if self._unreported is None:
            reported.set_result(self._report_state(step))
        else:
            self._saving = reported
        await self._saver.begin(manifest, self._trainer.state_dict(), reported)

    def _report_state(self, step: int) -> Reported:
        """What a checkpoint has of the report, once the line of its step is written."""
        saved = {*checkpoints.listed(self._folder / "checkpoints"), step}
        best = self._reporter.best_steps(self._config.checkpoint.keep_best, saved)
        return Reported(state=copy.deepcopy(self._reporter.state_dict()), best=best)

    async def _restore(self, checkpoint: Path, manifest: checkpoints.Manifest) -> int:
        """Goes back to a checkpoint; the position in the data order from there on."""
        state = checkpoints.read_state(checkpoint)
        await self._trainer.restore(checkpoint, manifest, state)
        lines, _ = read_lines(self._folder / "metrics.jsonl")
        past = [line for line in lines if 0 < line["step"] <= manifest.step]
        self._reporter.load_state_dict(state["reporter"], past)
        return manifest.next_draw

    async def _fed(self, awaitable: Awaitable[T]) -> T:
        """Awaits something of the feed; raises the feed's own error if that is what stopped it."""
        waiting = asyncio.ensure_future(awaitable)
        await asyncio.wait({waiting, self._feeding}, return_when=asyncio.FIRST_COMPLETED)
        if self._feeding.done() and self._feeding.exception() is not None:
            waiting.cancel()
            self._feeding.result()
        return await waiting
