"""The report of branches: the same updates from the same states under several settings.

A branch folder has `branches.jsonl`, one object for each branch point and setting: `step` (the branch point),
`setting` (its label), optionally `run` (where the state came from), and any numbers measured afterwards on the same
contexts, by their names. All differences are paired by branch point, so what the points have in common cancels.
"""

from pathlib import Path
from typing import Any

from isentropic.metrics.report.charts.figures import Figure, colour, layout, line, number, text
from isentropic.metrics.report.run_data import is_number
from isentropic.metrics.report.settings import Mean, mean_of
from isentropic.metrics.report.tables import difference, mean_and_error, table
from isentropic.metrics.sinks.jsonl import read_lines

BRANCHES = "branches.jsonl"
NOT_MEASURED = ("step", "policy_version", "seed")
Row = dict[str, Any]


class Branches:
    """The rows of a branch folder by setting; the first setting named is the base of the differences."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError where a line other than the last is damaged, or has no step or setting."""
        rows, self.torn = read_lines(folder / BRANCHES)
        self._by_setting: dict[str, dict[tuple[str, int], Row]] = {}
        for number_, row in enumerate(rows, start=1):
            if (
                not isinstance(row, dict)
                or not isinstance(row.get("step"), int)
                or "setting" not in row
            ):
                raise ValueError(
                    f"{folder / BRANCHES}, line {number_} needs 'step' (the branch point) and 'setting', got {row!r}."
                )
            point = (str(row.get("run", "")), row["step"])
            self._by_setting.setdefault(str(row["setting"]), {})[point] = row
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

    def differences(
        self, setting: str, key: str, base: str | None = None
    ) -> dict[tuple[str, int], float]:
        """setting - base at each branch point that has both, in the order of the points."""
        own, other = self._by_setting[setting], self._by_setting[base or self.settings[0]]
        return {
            point: own[point][key] - other[point][key]
            for point in sorted(own.keys() & other.keys())
            if is_number(own[point].get(key)) and is_number(other[point].get(key))
        }


def branch_charts(branches: Branches) -> list[Figure]:
    """For each measured number: mean difference by setting with its standard error, and the differences by point."""
    figures = []
    for key in branches.measured:
        by_setting = {s: branches.differences(s, key) for s in branches.settings[1:]}
        if any(by_setting.values()):
            figures += [_means(branches, key, by_setting), _by_point(branches, key, by_setting)]
    return figures


def branch_table(branches: Branches) -> str:
    """Mean of each setting, and its paired difference to the base."""
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


def _means(
    branches: Branches, key: str, by_setting: dict[str, dict[tuple[str, int], float]]
) -> Figure:
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
        "hovertemplate": "%{y:.4~g} ± %{error_y.array:.2~g} over %{customdata} points<extra></extra>",
        "marker": {"size": 9, "color": colour(0)},
    }
    axes = layout(
        x="setting", y=f"{key}, minus base", hovermode="closest", xaxis={"type": "category"}
    )
    axes["yaxis"]["zeroline"] = True
    note = f"Mean over branch points ± standard error of the paired differences; base: {branches.settings[0]}."
    return Figure(title=f"{key} by setting", traces=[trace], layout=axes, note=note)


def _by_point(
    branches: Branches, key: str, by_setting: dict[str, dict[tuple[str, int], float]]
) -> Figure:
    traces = []
    for index, (setting, values) in enumerate(by_setting.items(), start=1):
        points = [(step, step, value) for (_, step), value in values.items()]
        traces.append(line(points, setting, index, mode="markers"))
    axes = layout(x="branch point (step)", y="minus base", yaxis={"zeroline": True})
    return Figure(title=f"{key} at each branch point", traces=traces, layout=axes)
