"""Several runs side by side: runs that differ in nothing but their seed are one setting."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from isentropic.experiments.api.arguments import check_kind, check_text, shown
from isentropic.experiments.api.frames import by_step
from isentropic.experiments.api.run import ENTROPY, Run
from isentropic.metrics.report import write_report
from isentropic.metrics.report.find import find_run, runs_under
from isentropic.metrics.report.run_data import read_run
from isentropic.metrics.report.settings import Setting, group_settings
from isentropic.metrics.report.tables import OUTCOMES
from isentropic.metrics.report.write import default_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RUNS = "the name of a run or sweep, a path, or a Run"


class Comparison:
    """Runs by setting, in the order and under the labels of the HTML report. Read when it is made."""

    def __init__(self, paths: list[Path]) -> None:
        check_kind("paths", paths, list, "a list of folders; isentropic.compare takes names too")
        for path in paths:
            check_kind("each of paths", path, Path, "a Path; isentropic.compare takes names too")
        self._paths = paths
        self._settings: list[Setting] = group_settings(
            [read_run(folder) for folder in runs_under(paths)]
        )

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.runs)} runs: {', '.join(self.settings)}>"

    @property
    def settings(self) -> list[str]:
        """The labels of the settings."""
        return [setting.label for setting in self._settings]

    @property
    def runs(self) -> list[Run]:
        """All runs, by setting and seed."""
        return [Run(run.folder) for setting in self._settings for run in setting.runs]

    @property
    def metrics(self) -> pd.DataFrame:
        """metrics.jsonl of all runs, indexed by setting, run and step.

        A run is called by its name, or by its folder if another one of its setting has that name.
        """
        frames = {}
        for setting in self._settings:
            names = [run.name for run in setting.runs]
            for run in setting.runs:
                name = run.name if names.count(run.name) == 1 else str(run.folder)
                frames[setting.label, name] = by_step(run.lines)
        return pd.concat(frames, names=["setting", "run"])

    @property
    def table(self) -> pd.DataFrame:
        """How the settings ended: a row per setting; per outcome its mean and standard error.

        The error is that of the mean over seeds, NaN for a single run. What no run has is left out.
        """
        rows = {}
        for setting in self._settings:
            means = {name: setting.mean(key, kind) for key, kind, name in OUTCOMES}
            rows[setting.label] = {
                (name, part): value
                for name, mean in means.items()
                for part, value in (("mean", mean.value), ("se", mean.error), ("runs", mean.count))
            }
        frame = pd.DataFrame.from_dict(rows, orient="index")
        frame.index.name = "setting"
        return frame.loc[:, [c for c in frame if frame[c[0], "runs"].any()]]

    def plot(self, metric: str, ax: "Axes | None" = None) -> "Axes":
        """Draw a metric by step: a line per setting, its mean over seeds, and a band between them.

        Raises:
            ValueError: no run has the metric; with the nearest name.
        """
        from isentropic.experiments.api.plots import axes_for, numbers

        curve = numbers(self.metrics, metric)
        ax = axes_for(metric, ax)
        for label in self.settings:
            if label not in curve.index.get_level_values("setting"):
                continue
            by_step = curve.loc[label].groupby("step")
            mean = by_step.mean()
            (line,) = ax.plot(mean.index, mean.to_numpy(), label=label)
            ax.fill_between(
                mean.index, by_step.min(), by_step.max(), color=line.get_color(), alpha=0.15, lw=0
            )
        ax.legend(frameon=False)
        return ax

    def plot_entropy(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the mean entropy over response tokens, in nats, by step and setting."""
        return self.plot(ENTROPY, ax)

    def report(self, out: str | Path | None = None) -> Path:
        """Write the HTML report of the runs, as jobs/report.py does; return its path."""
        if out is not None:
            check_text("out", out, "the path of an HTML file, or None")
        return write_report(self._paths, Path(out) if out else default_out(self._paths))


def compare(runs: str | Path | Run | Iterable[str | Path | Run]) -> Comparison:
    """Put runs side by side.

    Args:
        runs: names, paths or runs; the name of a sweep stands for all of its runs.

    Raises:
        ValueError: one of them is not there, with the nearest name; or there is none.
    """
    if not isinstance(runs, str | Path | Run | Iterable) or isinstance(runs, bytes):
        raise ValueError(f"runs must be {RUNS}, or several in a list; got {shown(runs)}.")
    given = [runs] if isinstance(runs, str | Path | Run) else list(runs)
    for run in given:
        if not isinstance(run, Run):
            check_text("each of runs", run, RUNS)
    if not given:
        raise ValueError("there is nothing to compare: give the names of runs, or of a sweep.")
    return Comparison([run.folder if isinstance(run, Run) else find_run(str(run)) for run in given])
