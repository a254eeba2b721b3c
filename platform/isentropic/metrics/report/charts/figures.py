"""Figures as plotly's own JSON: traces and layout in plain dicts.

A colour is a name that the page resolves: '@c0' .. '@c7', '@warn', '@muted', or '@c0/0.2' with an
opacity; '@scale' and '@heat' are colour scales. The page has one palette for light and one for dark, and draws
again when the reader's setting changes.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from isentropic.metrics.report.reading import is_number
from isentropic.metrics.report.run_data import RunData

POINTS = 1500  # of a curve; longer ones are thinned
DASHES = ("solid", "dash", "dot", "dashdot")
NUM_COLOURS = 8
STEP = "step"
# Options of an axis: a tooltip shows a number as its axis does, with a digit more.
PERCENT = {"tickformat": ".2~%", "hoverformat": ".3~%"}
THOUSANDS = {"tickformat": ".3~s", "hoverformat": ".3~s"}
LOG = {"type": "log", "hoverformat": ".3~g"}
ZERO = {"zeroline": True}
Point = tuple[int, int, float]  # policy version, step, value


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One chart of the page."""

    title: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    note: str = ""
    wide: bool = False
    tall: bool = False
    keys: tuple[str, ...] = field(default=())  # the metrics it shows

    def payload(self) -> dict[str, Any]:
        return {"data": self.traces, "layout": self.layout}


def colour(index: int, opacity: float | None = None) -> str:
    return f"@c{index % NUM_COLOURS}" + (f"/{opacity}" if opacity is not None else "")


def layout(*, y: str, x: str = STEP, **changes: Any) -> dict[str, Any]:
    """Makes a layout with the titles of the axes; a change of an axis adds to it."""
    base: dict[str, Any] = {
        "xaxis": {
            "title": {"text": text(x)},
            "zeroline": False,
            "unifiedhovertitle": {"text": f"{text(x)} %{{x}}"},
        },
        "yaxis": {"title": {"text": text(y)}, "zeroline": False, "hoverformat": ".4~r"},
        "hovermode": "x unified",
    }
    for key, value in changes.items():
        base[key] = (
            base[key] | value
            if isinstance(base.get(key), dict) and isinstance(value, dict)
            else value
        )
    return base


def line(
    points: Sequence[Point], name: str, index: int, *, limit: int = POINTS, **changes: Any
) -> dict[str, Any]:
    """Draws a curve over the steps; the policy version is in the hover of a chart's first line."""
    kept = thin(points, limit)
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers" if len(kept) <= 30 else "lines",
        "name": text(name),
        "x": [step for _, step, _ in kept],
        "y": [number(value) for _, _, value in kept],
        "customdata": [version for version, _, _ in kept],
        "hovertemplate": "%{y}" + (" (version %{customdata})" if index == 0 else ""),
        "line": {
            "color": colour(index),
            "width": 2,
            "dash": DASHES[index // NUM_COLOURS % len(DASHES)],
        },
        "marker": {"size": 5, "color": colour(index)},
    }
    return trace | changes


def curves(
    run: RunData,
    title: str,
    keys: Mapping[str, str] | Iterable[str],
    *,
    y: str,
    note: str = "",
    wide: bool = False,
    start: bool = False,
    limit: int = POINTS,
    **changes: Any,
) -> Figure | None:
    """Draws one line per metric, with its alarms; None if the run has none of the metrics.

    A metric that is 0 throughout is left out: `run.zeros` names it at the end of the page.
    """
    names = dict(keys) if isinstance(keys, Mapping) else {key: key for key in keys}
    present = {key: name for key, name in names.items() if any(run.values(key, start=start))}
    if not present:
        return None
    traces = [
        line(run.curve(key, start=start), name, list(names).index(key), limit=limit)
        for key, name in present.items()
    ] + alarm_marks(run, tuple(present))
    return Figure(
        title=title,
        traces=traces,
        layout=layout(y=y, showlegend=True, **changes),
        note=note,
        wide=wide,
        keys=tuple(names),
    )


def on_the_right(figure: Figure, traces: Sequence[dict[str, Any]], *, y: str, **axis: Any) -> None:
    """Adds traces that have an axis of their own, titled y, at the right."""
    second = {
        "overlaying": "y",
        "side": "right",
        "showgrid": False,
        "title": {"text": text(y)},
        "tickmode": "auto",  # else at the heights of the left axis' ticks: 0.02 %, 0.07 %
        "rangemode": "tozero",
        "zeroline": False,
    }
    figure.traces.extend(trace | {"yaxis": "y2"} for trace in traces)
    figure.layout["yaxis2"] = second | axis


def stacked(run: RunData, title: str, names: Mapping[str, str], **options: Any) -> Figure | None:
    """Draws what `curves` does, as areas one above the other."""
    figure = curves(run, title, names, **options)
    if figure:
        for index, trace in enumerate(figure.traces):
            if trace["name"] != "alarm":
                trace |= {"stackgroup": "one", "mode": "lines", "fillcolor": colour(index, 0.65)}
                trace["line"] = trace["line"] | {"width": 0.5}
    return figure


def alarm_marks(
    run: RunData, keys: Sequence[str], *, on: str | None = None
) -> list[dict[str, Any]]:
    """Marks raised alarms on their curves; with `on`, those of every metric on that one's curve."""
    where = {
        (key, step): (step, value)
        for key in {*keys, on}
        if key
        for _, step, value in run.curve(key)
    }
    marks = []
    for alarm in run.raised:
        key = on or alarm.get("metric")
        if (key, alarm.get("step")) in where and (on or key in keys):
            label = alarm.get("message", alarm.get("rule", "alarm"))
            marks.append((*where[key, alarm["step"]], text(label)))
    if not marks:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "alarm",
            "x": [mark[0] for mark in marks],
            "y": [mark[1] for mark in marks],
            "text": [mark[2] for mark in marks],
            "hovertemplate": "%{text}",
            "marker": {
                "symbol": "x",
                "size": 11,
                "color": "@warn",
                "line": {"width": 1, "color": "@bg"},
            },
        }
    ]


def heat(
    title: str,
    x: Sequence[Any],
    y: Sequence[Any],
    z: Sequence[Sequence[float | None]],
    **options: Any,
) -> Figure:
    """Draws a heat map.

    options: unit (of the colours), x_title, y_title, note, wide, keys, show (numbers in the cells).
    """
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": list(x),
        "y": list(y),
        "z": [[number(value) for value in row] for row in z],
        "colorscale": "@heat",
        "colorbar": {
            "title": {"text": options.get("unit", ""), "side": "right"},
            "thickness": 12,
            "outlinewidth": 0,
        },
        "hovertemplate": "%{x}, %{y}: %{z:.4~g}<extra></extra>",
        "hoverongaps": False,
    }
    if options.get("show"):
        trace["texttemplate"] = "%{z:.3~g}"
    axes = layout(y=options.get("y_title", ""), x=options.get("x_title", STEP), hovermode="closest")
    for axis, labels in (("xaxis", x), ("yaxis", y)):
        axes[axis]["showgrid"] = False
        if labels and isinstance(labels[0], str):
            axes[axis]["type"] = "category"
    return Figure(
        title=title,
        traces=[trace],
        layout=axes,
        note=options.get("note", ""),
        wide=options.get("wide", False),
        keys=tuple(options.get("keys", ())),
    )


def error_bars(errors: Sequence[Any], colour: str = "@muted/0.6") -> dict[str, Any]:
    """Makes error bars; a point whose error is unknown has none."""
    array = [number(error) or 0 for error in errors]
    return {"type": "data", "array": array, "thickness": 1, "width": 0, "color": colour}


def by_step(steps: Sequence[int], **changes: Any) -> dict[str, Any]:
    """Makes markers that are coloured by their step, with the scale beside the chart."""
    bar = {"title": {"text": STEP, "side": "right"}, "thickness": 12, "outlinewidth": 0}
    marker = {"size": 8, "color": list(steps), "colorscale": "@scale", "colorbar": bar}
    return marker | changes


def thin(points: Sequence[Any], limit: int = POINTS) -> list[Any]:
    """Keeps at most about `limit` of the points, evenly, the last one among them."""
    every = max(1, math.ceil(len(points) / limit))
    kept = list(points[::every])
    return kept if not points or kept[-1] is points[-1] else [*kept, points[-1]]


def number(value: Any) -> float | None:
    """Rounds to six significant digits; None for what is no finite number: JSON has no NaN."""
    return float(f"{value:.6g}") if is_number(value) else None


def text(value: str) -> str:
    """Escapes a label: plotly reads HTML tags in them, and what users and models wrote is text."""
    return html.escape(value, quote=False)
