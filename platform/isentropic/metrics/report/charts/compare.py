"""The charts of several runs: one line per setting, and maps over the two swept coefficients.

A line is the mean over the seeds, its band their spread.
"""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from isentropic.metrics.report.charts.figures import (
    PERCENT,
    Figure,
    Point,
    colour,
    heat,
    layout,
    line,
    number,
    text,
)
from isentropic.metrics.report.run_data import RunData
from isentropic.metrics.report.settings import Setting, order_of, short, swept_axes

# metric, title, unit, options of the y axis
CURVES: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("entropy/mean", "Entropy of the policy", "nats per token", {"rangemode": "tozero"}),
    ("reward/mean", "Reward", "task reward", {}),
    ("eval/avg_at_k", "Held-out prompts, avg@k", "share", PERCENT),
    ("eval/pass_at_k", "Held-out prompts, pass@k", "share", PERCENT),
    (
        "clip/low_frac",
        "Clipped tokens, low side",
        "share of tokens",
        PERCENT | {"rangemode": "tozero"},
    ),
    (
        "clip/high_frac",
        "Clipped tokens, high side",
        "share of tokens",
        PERCENT | {"rangemode": "tozero"},
    ),
    (
        "grad_share/low",
        "Gradient mass, low side",
        "share of |push|",
        PERCENT | {"rangemode": "tozero"},
    ),
    (
        "grad_share/high",
        "Gradient mass, high side",
        "share of |push|",
        PERCENT | {"rangemode": "tozero"},
    ),
    ("kl/k1", "KL to the old policy, k1", "nats per token", {"zeroline": True}),
    ("grad_norm/max", "Largest gradient norm of a step", "L2 norm", {}),
    ("response/tokens_mean", "Response length", "tokens", {}),
)
MAPS = (("entropy/mean", "Final entropy", "nats"), ("reward/mean", "Final reward", "reward"))
MAPS_HELD_OUT = (("eval/avg_at_k", "Final avg@k, held out", "share"),)
NAMED, HOVERED = 3, 12  # settings that a small chart names, and that one hover lists
NUMBERS = 150_000  # of all curves together: what keeps a page of many runs small


def compare_charts(settings: Sequence[Setting]) -> list[Figure]:
    """Draws one chart per metric; what no run has is left out."""
    limit = max(40, NUMBERS // (len(CURVES) * 3 * max(1, len(settings))))
    figures = [_curve(settings, *spec, limit=limit) for spec in CURVES]
    return [figure for figure in figures if figure]


def _curve(
    settings: Sequence[Setting],
    key: str,
    title: str,
    unit: str,
    axis: dict[str, Any],
    *,
    limit: int,
) -> Figure | None:
    traces: list[dict[str, Any]] = []
    banded = False
    for index, setting in enumerate(settings):
        points, spread, counts = over_seeds(setting.runs, key)
        if not points:
            continue
        mean = line(points, setting.label, index, limit=limit, legendgroup=str(index))
        mean["customdata"] = [counts[step] for step in mean["x"]]
        mean["hovertemplate"] = "%{y}" + (" (%{customdata} runs)" if len(setting.runs) > 1 else "")
        if any(spread.values()):
            banded = True
            traces.append(_band(mean, spread, index))
        traces += [mean, *_marks(setting, key, index)]
    if not traces:
        return None
    note = "Line: mean over seeds; band: one standard deviation. " if banded else ""
    wide = key == CURVES[0][0]
    axes = layout(
        y=unit, yaxis=axis, hovermode="x unified" if len(settings) <= HOVERED else "closest"
    )
    if not wide and len(settings) > NAMED:
        axes["showlegend"] = False
        note += "Colours as in the first chart."
    return Figure(title=title, traces=traces, layout=axes, note=note, wide=wide, keys=(key,))


def over_seeds(
    runs: Sequence[RunData], key: str
) -> tuple[list[Point], dict[int, float], dict[int, int]]:
    """Averages over the runs, step by step; a run that ended early counts as far as it came.

    Returns:
        The mean as points of a curve; by step the standard deviation (over n - 1; 0 for one run);
        by step the number of runs.
    """
    values: dict[int, list[float]] = {}
    versions: dict[int, int] = {}
    for run in runs:
        for version, step, value in run.curve(key, start=key.startswith("eval/")):
            values.setdefault(step, []).append(value)
            versions.setdefault(step, version)
    points = [(versions[step], step, fmean(values[step])) for step in sorted(values)]
    spread = {step: stdev(at) if len(at) > 1 else 0.0 for step, at in values.items()}
    counts = {step: len(at) for step, at in values.items()}
    return points, spread, counts


def _band(mean: dict[str, Any], spread: dict[int, float], index: int) -> dict[str, Any]:
    steps = mean["x"]
    upper = [number(value + spread[step]) for value, step in zip(mean["y"], steps, strict=True)]
    lower = [number(value - spread[step]) for value, step in zip(mean["y"], steps, strict=True)]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*mean["x"], *reversed(mean["x"])],
        "y": [*upper, *reversed(lower)],
        "fill": "toself",
        "fillcolor": colour(index, 0.16),
        "line": {"width": 0, "color": colour(index, 0)},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": str(index),
    }


def _marks(setting: Setting, key: str, index: int) -> list[dict[str, Any]]:
    """Marks alarms of the metric, at the value of the run that raised them."""
    marks = []
    for run in setting.runs:
        at = {step: (step, value) for _, step, value in run.curve(key)}
        for alarm in run.raised:
            if alarm.get("metric") == key and alarm.get("step") in at:
                label = f"{run.name}: {alarm.get('message', alarm.get('rule', 'alarm'))}"
                marks.append((*at[alarm["step"]], text(label)))
    if not marks:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "alarm",
            "x": [mark[0] for mark in marks],
            "y": [number(mark[1]) for mark in marks],
            "text": [mark[2] for mark in marks],
            "hovertemplate": "%{text}<extra></extra>",
            "legendgroup": str(index),
            "showlegend": False,
            "marker": {"symbol": "x", "size": 9, "color": "@warn"},
        }
    ]


def maps(settings: Sequence[Setting]) -> list[Figure]:
    """Draws the last entropy and reward over the two swept coefficients, if there are two."""
    axes = swept_axes(settings)
    if axes is None:
        return []
    first, second = axes
    columns = sorted({setting.values[first] for setting in settings}, key=order_of)
    rows = sorted({setting.values[second] for setting in settings}, key=order_of)
    figures = []
    for key, title, unit in (*MAPS, *MAPS_HELD_OUT):
        cells: dict[tuple[Any, Any], list[float]] = {}
        for setting in settings:
            mean = setting.mean(key, "last")
            if mean.count:
                cells.setdefault((setting.values[first], setting.values[second]), []).append(
                    mean.value
                )
        if cells:
            z = [[fmean(cells[c, r]) if (c, r) in cells else None for c in columns] for r in rows]
            others = " and over the other swept keys" if len(settings) > len(cells) else ""
            figures.append(
                heat(
                    title,
                    [short(column) for column in columns],
                    [short(row) for row in rows],
                    z,
                    unit=unit,
                    x_title=first,
                    y_title=second,
                    show=True,
                    note=f"Last value, mean over seeds{others}.",
                )
            )
    return figures
