"""The report of branches: the same updates from the same states under several settings.

A branch folder has `branches.jsonl`, one object for each branch point and setting: `step` (the
branch point), `setting` (its label), optionally `run` (where the state came from), and any numbers
measured afterwards on the same contexts, by their names. All differences are paired by branch
point, so what the points have in common cancels.
"""

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from isentropic.metrics.report.blocks import Table, table
from isentropic.metrics.report.charts.figures import (
    ZERO,
    Figure,
    colour,
    error_bars,
    layout,
    line,
    number,
    text,
)
from isentropic.metrics.report.reading import is_number, read_rows, whole, words
from isentropic.metrics.report.settings import BLOCK, Mean, in_blocks, mean_of
from isentropic.metrics.report.tables import difference, mean_and_error

BRANCHES = "branches.jsonl"
SETTINGS = "settings.json"  # label -> overrides, objective, how measured
NOT_MEASURED = ("step", "policy_version", "seed", "setting", "run")
FEWEST = 4  # blocks of points, for an error by blocks
TALL = 10  # quantities from which on the chart needs more height
LABELS = {
    "entropy": "entropy (nats per token)",
    "entropy_trained": "entropy, contexts trained on",
    "entropy_held_out": "entropy, other contexts",
    "kl_k1": "KL to the branch point, k1",
    "kl_k3": "KL to the branch point, k3",
    "reward": "reward, reweighted from the recorded samples",
    "reward_effective": "effective share of those samples",
}
Row = dict[str, Any]
Point = tuple[str, int]  # run, step


class Branches:
    """The rows of a branch folder by setting; the first one is the base of the differences."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError if a line other than the last is damaged, or has no step or setting."""
        path = folder / BRANCHES
        rows, self.torn = read_rows(path)
        self._by_setting: dict[str, dict[Point, Row]] = {}
        for index, row in enumerate(rows, start=1):
            step = whole(row.get("step")) if isinstance(row, dict) else None
            if step is None or "setting" not in row:
                raise ValueError(
                    f"{path}, line {index} needs 'step' (the branch point, a whole number) and "
                    f"'setting', got {words(row)[:200]}. Restore the file or remove the line."
                )
            point = (words(row.get("run", "")), step)
            self._by_setting.setdefault(words(row["setting"]), {})[point] = row
        measured = {key: None for row in rows for key, value in row.items() if is_number(value)}
        self.measured = [key for key in measured if key not in NOT_MEASURED]

    @property
    def settings(self) -> list[str]:
        return list(self._by_setting)

    @property
    def num_points(self) -> int:
        return len({point for rows in self._by_setting.values() for point in rows})

    def mean(self, setting: str, key: str) -> Mean:
        rows = self._by_setting[setting].values()
        return mean_of([row[key] for row in rows if is_number(row.get(key))])

    def mean_difference(self, setting: str, key: str, base: str | None = None) -> Mean:
        """Averages setting - base over the branch points that have both.

        The error is that of blocks of neighbouring points of a run, which share a path and contexts;
        of single points if there are fewer than `FEWEST` blocks, which tell less of their own spread.
        Points of one run have the run in common: over several, it is no smaller than that of the
        runs, each the mean of its points.
        """
        by_run = self.differences_by_run(setting, key, base)
        if sum(max(1, len(values) // BLOCK) for values in by_run.values()) < FEWEST:
            found = mean_of([value for values in by_run.values() for value in values])
        else:
            found = in_blocks(by_run.values())
        if len(by_run) > 1:
            between = mean_of([fmean(values) for values in by_run.values()]).error
            found = replace(found, error=max(found.error, between))
        return found

    def differences_by_run(
        self, setting: str, key: str, base: str | None = None
    ) -> dict[str, list[float]]:
        """Returns setting - base at the points of each run, in their order."""
        by_run: dict[str, list[float]] = {}
        for (run, _), value in self.differences(setting, key, base).items():
            by_run.setdefault(run, []).append(value)
        return by_run

    def differences(self, setting: str, key: str, base: str | None = None) -> dict[Point, float]:
        """Returns setting - base at each branch point that has both, in the order of the points."""
        rows = self._by_setting[setting]
        base_rows = self._by_setting[base or self.settings[0]]
        return {
            point: rows[point][key] - base_rows[point][key]
            for point in sorted(rows.keys() & base_rows.keys())
            if is_number(rows[point].get(key)) and is_number(base_rows[point].get(key))
        }


def forest(branches: Branches) -> Figure | None:
    """Draws each quantity's mean difference by setting, in its own standard errors.

    Quantities of all units stand on one axis; a difference without an error is left out.
    """
    traces = []
    for index, setting in enumerate(branches.settings[1:], start=1):
        means = {key: branches.mean_difference(setting, key) for key in branches.measured}
        sure = {key: mean for key, mean in means.items() if mean.error > 1e-9 * abs(mean.value)}
        if sure:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": text(setting),
                    "x": [number(mean.value / mean.error) for mean in sure.values()],
                    "y": [text(label(key)) for key in sure],
                    "error_x": error_bars([1] * len(sure), colour(index, 0.6)),
                    "customdata": [[difference(mean), mean.count] for mean in sure.values()],
                    "hovertemplate": "%{y}: %{customdata[0]} over %{customdata[1]} points"
                    "<extra>%{fullData.name}</extra>",
                    "marker": {"size": 9, "color": colour(index)},
                }
            )
    if not traces:
        return None
    axes = layout(
        x="standard errors away from the base",
        y="",
        hovermode="closest",
        showlegend=True,
        yaxis={"type": "category", "autorange": "reversed"},
    )
    axes["xaxis"]["zeroline"] = True
    note = (
        f"Mean paired difference to {branches.settings[0]} over the branch points, divided by its "
        "standard error. Within 3 of 0 nothing is decided."
    )
    rows = len({key for trace in traces for key in trace["y"]})
    return Figure(
        title="All quantities against the base",
        traces=traces,
        layout=axes,
        note=note,
        wide=True,
        tall=rows > TALL,
    )


def point_charts(branches: Branches) -> list[Figure]:
    """Draws each quantity's differences by branch point."""
    figures = []
    for key in branches.measured:
        by_setting = {
            setting: branches.differences(setting, key) for setting in branches.settings[1:]
        }
        if any(by_setting.values()):
            figures.append(_by_point(key, by_setting))
    return figures


def branch_table(branches: Branches) -> Table:
    """Shows a row per quantity: the base's mean, and every other setting's paired difference."""
    base, *others = branches.settings
    rows = [
        [
            label(key),
            mean_and_error(branches.mean(base, key)),
            *(difference(branches.mean_difference(setting, key)) for setting in others),
        ]
        for key in branches.measured
    ]
    return table(["quantity", f"{base} (base)", *(f"{name} - base" for name in others)], rows)


def label(key: str) -> str:
    """Returns what people read in the place of a key."""
    return LABELS.get(key, key.replace("_", " "))


def _by_point(key: str, by_setting: dict[str, dict[Point, float]]) -> Figure:
    traces = []
    for index, (setting, values) in enumerate(by_setting.items(), start=1):
        points = [(step, step, value) for (_, step), value in values.items()]
        trace = line(points, setting, index, mode="markers")
        traces.append(trace | {"marker": {"size": 7, "color": colour(index)}})
    axes = layout(x="branch point (step)", y="minus base", yaxis=ZERO, showlegend=True)
    return Figure(title=f"{label(key)} at each branch point", traces=traces, layout=axes)
