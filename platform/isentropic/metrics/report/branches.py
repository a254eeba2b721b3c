"""The report of branches: the same updates from the same states under several settings.

A branch folder has `branches.jsonl`, one object for each branch point and setting: `step` (the
branch point), `setting` (its label), optionally `run` (where the state came from), and any numbers
measured afterwards on the same contexts, by their names. All differences are paired by branch
point, so what the points have in common cancels.
"""

from pathlib import Path
from typing import Any

from isentropic.metrics.report.blocks import Table, table
from isentropic.metrics.report.charts.figures import Figure, colour, layout, line, number, text
from isentropic.metrics.report.reading import is_number, read_rows, whole, words
from isentropic.metrics.report.settings import Mean, mean_of
from isentropic.metrics.report.tables import difference, mean_and_error

BRANCHES = "branches.jsonl"
NOT_MEASURED = ("step", "policy_version", "seed", "setting", "run")
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

    def differences(self, setting: str, key: str, base: str | None = None) -> dict[Point, float]:
        """Returns setting - base at each branch point that has both, in the order of the points."""
        rows = self._by_setting[setting]
        base_rows = self._by_setting[base or self.settings[0]]
        return {
            point: rows[point][key] - base_rows[point][key]
            for point in sorted(rows.keys() & base_rows.keys())
            if is_number(rows[point].get(key)) and is_number(base_rows[point].get(key))
        }


def branch_charts(branches: Branches) -> list[Figure]:
    """Draws each measured number: its mean difference by setting, and its differences by point."""
    figures = []
    for key in branches.measured:
        by_setting = {
            setting: branches.differences(setting, key) for setting in branches.settings[1:]
        }
        if any(by_setting.values()):
            figures += [_means(branches, key, by_setting), _by_point(key, by_setting)]
    return figures


def branch_table(branches: Branches) -> Table:
    """Shows the mean of each setting, and its paired difference to the base."""
    rows = []
    for setting in branches.settings:
        row: list[Any] = [setting]
        for key in branches.measured:
            differences = list(branches.differences(setting, key).values())
            base = setting == branches.settings[0]
            row += [
                mean_and_error(branches.mean(setting, key)),
                "base" if base else difference(mean_of(differences)),
            ]
        rows.append(row)
    head = [title for key in branches.measured for title in (key, "difference")]
    return table(["setting", *head], rows)


def _means(branches: Branches, key: str, by_setting: dict[str, dict[Point, float]]) -> Figure:
    means = {setting: mean_of(list(values.values())) for setting, values in by_setting.items()}
    trace = {
        "type": "scatter",
        "mode": "markers",
        "name": text(key),
        "x": [text(setting) for setting in (branches.settings[0], *means)],
        "y": [0, *(number(mean.value) for mean in means.values())],
        "error_y": {
            "type": "data",
            "array": [0, *(number(mean.error) or 0 for mean in means.values())],
            "width": 4,
        },
        "customdata": [branches.num_points, *(mean.count for mean in means.values())],
        "hovertemplate": "%{y:.4~g} ± %{error_y.array:.2~g} over %{customdata} points"
        "<extra></extra>",
        "marker": {"size": 9, "color": colour(0)},
    }
    axes = layout(
        x="setting", y=f"{key}, minus base", hovermode="closest", xaxis={"type": "category"}
    )
    axes["yaxis"]["zeroline"] = True
    note = (
        "Mean over branch points ± standard error of the paired differences; "
        f"base: {branches.settings[0]}."
    )
    return Figure(title=f"{key} by setting", traces=[trace], layout=axes, note=note)


def _by_point(key: str, by_setting: dict[str, dict[Point, float]]) -> Figure:
    traces = []
    for index, (setting, values) in enumerate(by_setting.items(), start=1):
        points = [(step, step, value) for (_, step), value in values.items()]
        traces.append(line(points, setting, index, mode="markers"))
    axes = layout(x="branch point (step)", y="minus base", yaxis={"zeroline": True})
    return Figure(title=f"{key} at each branch point", traces=traces, layout=axes)
