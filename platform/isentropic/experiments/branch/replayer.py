"""Recorded steps, trained again: the run's own training step, on batches of the ledger."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from isentropic.config import Config
from isentropic.controller.method import Method
from isentropic.controller.reporting import Reporter
from isentropic.controller.step import Delivery, Step
from isentropic.controller.storage.checkpoints import Manifest, read_state
from isentropic.controller.storage.ledger import Batch
from isentropic.controller.trainer import Trainer
from isentropic.experiments.branch.learner import ReplayLearner
from isentropic.experiments.run.builders import settings_of
from isentropic.experiments.run.prepare import Prepared
from isentropic.experiments.run.recorded import RecordedRun
from isentropic.records import Rollout, RolloutKey, TokenScores

# Numbers that a replay cannot have: it took another time, and no engine.
NOT_REPLAYED = ("time/", "throughput/", "mismatch/", "sync/", "eval/")


class LastLine:
    """Takes the lines of a reporter and keeps the last one."""

    def __init__(self) -> None:
        self.line: dict[str, Any] = {}

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        self.line = {"step": step} | metrics

    def log_updates(self, step: int, rows: list[dict[str, Any]]) -> None:
        pass

    def log_alarm(self, record: dict[str, Any]) -> None:
        pass


class Replayer:
    """Trains steps of a recorded run again, under its config or another.

    It starts from any state of its learner, which several replayers may share: that state is the
    caller's business. The state of the method, the loss terms and the report is the replayer's.
    """

    def __init__(
        self, config: Config, learner: ReplayLearner, prepared: Prepared, *, order: int = 0
    ) -> None:
        """order: 0 puts prompts into updates as the run did, any other number in another way."""
        method = Method(config)
        method.bind(chat=prepared.chat, task=prepared.task, model_path=prepared.model.path)
        self._config = config
        self._learner = learner
        self._total_updates = settings_of(config)["total_updates"]
        self._trainer = Trainer(
            config, learner, method, order=order, attention_share=prepared.attention_share
        )
        self._last = LastLine()
        self._reporter = Reporter(config, self._last)

    @property
    def step(self) -> int:
        """The last step trained; 0 is the start."""
        return self._trainer.step

    async def configure(self) -> None:
        """Gives the learner this replayer's objective and hyper-parameters.

        The weights stay; AdamW starts afresh.
        """
        settings = settings_of(self._config) | {"total_updates": self._total_updates}
        await self._learner.configure(**settings)

    async def restore(self, checkpoint: Path, manifest: Manifest) -> None:
        """Goes back to a checkpoint, the learner too."""
        state = read_state(checkpoint)
        await self._trainer.restore(checkpoint, manifest, state)
        self._reporter.load_state_dict(state["reporter"])

    def follow(self, other: "Replayer") -> None:
        """Takes the training state of another replayer, as far as both have the same slots.

        The position in the schedule of the learning rate too: updates that were made count as they did
        there, so that other updates per rollout begin at the rate of this step.
        """
        self._total_updates = other._total_updates
        self._trainer.follow(other._trainer)

    async def train(self, batch: Batch) -> Step:
        """Trains the step of `batch`: old-policy pass, the method's stages, updates. No report."""
        return await self._trainer.train(await self._trainer.score(Delivery(batch)))

    async def report(self, step: Step) -> dict[str, Any]:
        """The line that the step would have in metrics.jsonl, as far as it needs no engine."""
        await self._trainer.recheck(step)
        self._reporter.step(step)
        line = self._last.line
        return {key: value for key, value in line.items() if not key.startswith(NOT_REPLAYED)}

    async def score(self, rollouts: Sequence[Rollout]) -> dict[RolloutKey, TokenScores]:
        """Token statistics under the current weights."""
        return await self._trainer.score_rollouts(rollouts)


async def walk_to(run: RecordedRun, replayer: Replayer, step: int, *, exact: bool = False) -> int:
    """Brings a replayer of the recorded config to the state after `step`; the steps it trained.

    It starts from its own state or a checkpoint, whichever is nearer, and trains the recorded steps
    between. `exact` reports them too, so that the reporter's running statistics are the run's.

    Raises ValueError if the ledger lacks a step between.
    """
    nearest = run.checkpoint_before(step)
    if nearest is not None and nearest[1].step > replayer.step:
        await replayer.restore(*nearest)
    trained = 0
    while replayer.step < step:
        made = await replayer.train(run.batch(replayer.step + 1))
        if exact:
            await replayer.report(made)
        trained += 1
    return trained


def without_panel(config: Config) -> Config:
    """The config without its panel of counterfactual objectives.

    A comparison trains other objectives: it needs no estimate of what they would have done.
    """
    return replace(config, accounting=replace(config.accounting, counterfactuals={}))
