"""A recorded run, or one that is still going, as data frames."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from isentropic.controller.storage.ledger import FOLDERS, recorded_steps
from isentropic.experiments.api.arguments import check_kind, check_text
from isentropic.experiments.api.frames import by_step, rollout_frame, token_frame
from isentropic.experiments.run.folder import CONFIG, read_config
from isentropic.experiments.run.recorded import LEDGER
from isentropic.metrics.report.find import find_run, is_run, runs_under
from isentropic.metrics.report.reading import read_rows
from isentropic.metrics.report.run_data import RunData, read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENTROPY = "entropy/mean"


class Run:
    """A run folder, read only. Every attribute is read anew, so that a run that is going on grows.

    Attributes:
        folder: where the run lies.
    """

    def __init__(self, folder: Path) -> None:
        check_kind("folder", folder, Path, "a Path; isentropic.load_run takes names too")
        self.folder = folder

    def __repr__(self) -> str:
        data = self.data
        method = f", {data.method}" if data.method else ""
        return f"<Run {data.name}{method}, {data.status}, {self.folder}>"

    @property
    def data(self) -> RunData:
        """What reports are made from: lines, alarms, environment, and notes on damage."""
        return read_run(self.folder)

    @property
    def name(self) -> str:
        """`run.name` of the config, else the name of the folder."""
        return self.data.name

    @property
    def status(self) -> str:
        """finished | stopped by alarm | still going | not finished, and why or where."""
        return self.data.status

    @property
    def config(self) -> DictConfig:
        """The resolved config: `run.config.objective.beta1`. Raises ValueError if it is missing."""
        if not (self.folder / CONFIG).is_file():
            raise ValueError(f"{self.folder} has no {CONFIG}: it was not written by jobs/train.py.")
        return OmegaConf.create(read_config(self.folder))

    @property
    def metrics(self) -> pd.DataFrame:
        """metrics.jsonl: a row per step, which is the index, and a column per metric.

        Row 0 is the evaluation before the first step. docs/metrics.md has units and formulas; a
        metric that a step does not have is NaN.
        """
        return by_step(self.data.lines)

    @property
    def updates(self) -> pd.DataFrame:
        """updates.jsonl: a row per optimizer step, indexed by step and update."""
        return by_step(read_rows(self.folder / "updates.jsonl")[0], "update")

    @property
    def alarms(self) -> pd.DataFrame:
        """alarms.jsonl: a row per alarm that was raised or cleared."""
        return pd.DataFrame(self.data.alarms)

    @property
    def steps(self) -> list[int]:
        """The steps whose rollouts are recorded."""
        return recorded_steps(self.folder / LEDGER)

    @property
    def evaluated(self) -> list[int]:
        """The steps after which the answers to held-out prompts are recorded; 0 is the start."""
        return recorded_steps(self.folder / FOLDERS["eval"])

    @property
    def measured(self) -> list[int]:
        """The steps whose tokens have contributions to the entropy: `accounting.ledger.every`."""
        return recorded_steps(self.folder / "attribution")

    def rollouts(self, step: int, *, split: str = "train") -> pd.DataFrame:
        """Read what was drawn for a step: a row per rollout, dropped ones and teachers too.

        Columns: the key (draw, wave, sample), prompt, answer, response, reward, tokens,
        finish_reason, origin, temperature, policy_version; and, once the step is trained, fate,
        shaped_reward, and the means over the response of advantage, old_logprob and old_entropy
        (nats), NaN for what was not trained on.

        Args:
            step: one of `steps`, or of `evaluated`.
            split: "eval" for the held-out prompts, answered with the weights after the step;
                "start", step 0 only, for the answers that eval/entropy is the mean of.

        Raises:
            ValueError: the run recorded no such step, or its file is damaged.
        """
        return rollout_frame(self.folder, step, split)

    def tokens(
        self, step: int, *, draw: int | None = None, attribution: str | None = None
    ) -> pd.DataFrame:
        """Read the response tokens of a step: a row per token.

        Columns: draw, wave, sample, turn, position (in the response), token_id, text, and logprob
        as the engine sampled it (nats). The texts of a response, joined, are the response; text is
        None if this machine lacks the run's tokenizer. For measured steps also, of the tokens that
        were trained on, under the weights that the step began with: old_logprob, old_entropy
        (nats), sensitivity (S), advantage; and contribution: what the token did to the mean
        entropy, in nats, summed over the step's updates.

        Args:
            step: a step of `steps`.
            draw: only the responses to one prompt; decoding a large step takes minutes.
            attribution: the name of an attribution that jobs/attribute.py made, in the place of the
                run's own.

        Raises:
            ValueError: the run recorded no such step or draw, has no such attribution, or a file is
                damaged.
        """
        return token_frame(self.folder, step, draw=draw, attribution=attribution)

    def plot(self, metric: str, ax: "Axes | None" = None, **style: object) -> "Axes":
        """Draw a metric by step. Raises ValueError, with the nearest name, if no step has it."""
        from isentropic.experiments.api.plots import plot_curve

        return plot_curve(self.metrics, metric, ax, **{"label": self.name} | style)

    def plot_entropy(self, ax: "Axes | None" = None, **style: object) -> "Axes":
        """Draw the mean entropy over response tokens, in nats, by step.

        Args:
            ax: matplotlib axes to draw on; None makes a figure.
            style: of the line, as in `Axes.plot`.
        """
        return self.plot(ENTROPY, ax, **style)


def load_run(name: str | Path) -> Run:
    """Find a run by its name under runs/ (or ISENTROPIC_RUNS), or by its path.

    Raises:
        ValueError: there is none, with the nearest name; or it is a folder of several runs.
    """
    check_text("name", name, "the name of a run, or its path")
    folder = find_run(str(name))
    if not is_run(folder):
        runs = runs_under([folder])
        raise ValueError(
            f"{folder} holds {len(runs)} run{'s' if len(runs) > 1 else ''} and is none itself. Load "
            f"one of them, load_run({str(_from(folder, runs[0]))!r}), or all: "
            f"compare({str(name)!r})."
        )
    return Run(folder)


def _from(folder: Path, run: Path) -> Path:
    """Return a run's path as its folder was given; as it is if a link leads out of the folder."""
    inside = folder.resolve()
    return folder / run.relative_to(inside) if run.is_relative_to(inside) else run
