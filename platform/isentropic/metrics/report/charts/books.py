"""Charts of the entropy ledger of one run, in nats per token. metrics/ledger.py has the formulas."""

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

from isentropic.metrics.classes import LABELS
from isentropic.metrics.ledger import SOURCES
from isentropic.metrics.report.charts.figures import ZERO, Figure, colour, layout, number, thin
from isentropic.metrics.report.charts.story import by_step
from isentropic.metrics.report.run_data import RunData

CLASS_NOTE = "PA, NA: advantage above, below 0. HP, LP: high-, low-probability tokens."
BY_CLASS = {f"ledger/{key}": label for key, label in LABELS.items()}
REST = {
    "ledger/momentum": "momentum",
    "ledger/decay": "weight decay",
    "ledger/residual": "residual",
}
PARTS = BY_CLASS | REST  # they add up to the measured change
MEASURED = "ledger/measured"
BARS = 400  # steps of a chart of bars; more are thinned


def per_step(run: RunData) -> Figure | None:
    """Stacks what moved the entropy in each measured step, with the measured change on top."""
    figure = _stack(run, "What moved the entropy, step by step", PARTS)
    if figure is None:
        return None
    explained = run.values("ledger/explained")
    share = f" The books explain {explained[-1]:.3%} of the changes." if explained else ""
    note = (
        "Each measured step, along the step that the optimizer made: this step's tokens by class, "
        f"the momentum of earlier updates, weight decay, and what is left over.{share} {CLASS_NOTE}"
    )
    measured = _measured(by_step(run, MEASURED))
    return _with(figure, [measured], note, keys=(MEASURED, "ledger/explained", *PARTS), wide=True)


def cumulated(run: RunData) -> Figure | None:
    """Adds the books up over the run, beside the entropy curve; two measured steps at least."""
    measured = by_step(run, MEASURED)
    entropy = by_step(run, "entropy/mean")
    if len(measured) < 2 or not entropy:
        return None
    # A measured step stands for those since the one before it, or the sum would be of a few steps.
    weights = dict(zip(measured, _gaps(list(measured)), strict=True))
    summed = {
        key: _summed(values, weights)
        for key in PARTS
        if any((values := by_step(run, key, measured)).values())
    }
    steps = thin(list(measured), BARS)
    traces = [
        _bars(
            {step: values[step] for step in steps if step in values},
            PARTS[key],
            list(PARTS).index(key),
        )
        for key, values in summed.items()
    ]
    traces.append(_measured(_summed(measured, weights), "measured, added up"))
    first = next(iter(entropy.values()))
    # A line's entropy is that of the weights before its updates: after those of the step before.
    curve = {step - 1: value - first for step, value in entropy.items()}
    traces.append(_curve(curve, "entropy of the policy, since step 1"))
    few = len(measured) < len(run.steps)
    scaled = "Each measured step stands for the steps since the one before it. " if few else ""
    return Figure(
        title="What moved the entropy, added up over the run",
        traces=traces,
        layout=layout(y="nats per token", barmode="relative", yaxis=ZERO, showlegend=True),
        note=f"{scaled}The bars end where the measured change does, and the curve is an "
        "independent check: it is over the rollouts of the next steps, not over the contexts of "
        "the books.",
        wide=True,
    )


def impulse(run: RunData) -> Figure | None:
    """Stacks each class's whole effect, momentum included."""
    parts = {f"ledger/impulse/{key}": label for key, label in LABELS.items()}
    note = (
        "A class with all that it does through momentum, as if AdamW's denominator and the "
        f"gradient of the entropy stayed as they are. {CLASS_NOTE}"
    )
    figure = _stack(run, "Whole effect of each class, momentum included", parts)
    return figure and _with(figure, [], note, keys=tuple(parts))


def sides(run: RunData) -> Figure | None:
    """Stacks the whole effect of the clipped tokens, by the side of the clip."""
    parts = {
        "ledger/impulse/low": "clipped, low side (A<0)",
        "ledger/impulse/high": "clipped, high side (A>0)",
    }
    note = "What tokens outside the clip interval do, momentum included. Plain clipping gives 0."
    figure = _stack(run, "Whole effect of clipped tokens", parts)
    return figure and _with(figure, [], note, keys=(*parts, "ledger/low", "ledger/high"))


def source(run: RunData) -> Figure | None:
    """Stacks this step's tokens by where they came from; None if all came from one place."""
    parts = {f"ledger/source/{name}": name for name in SOURCES}
    if sum(any(run.values(key)) for key in parts) < 2:
        return None
    figure = _stack(run, "Tokens by where their samples came from", parts)
    return figure and _with(figure, [], "Without momentum.", keys=tuple(parts))


def _stack(run: RunData, title: str, parts: Mapping[str, str]) -> Figure | None:
    """Stacks bars by measured step; parts that are 0 throughout are left out."""
    steps = thin(list(by_step(run, MEASURED)), BARS)
    traces = [
        _bars(by_step(run, key, steps), label, index)
        for index, (key, label) in enumerate(parts.items())
        if any(run.values(key))
    ]
    if not steps or not traces:
        return None
    # Sparse steps side by side: on an axis of numbers their bars would be hairlines.
    axes = layout(
        y="nats per token",
        barmode="relative",
        xaxis={"type": "category"},
        yaxis=ZERO,
        showlegend=True,
    )
    return Figure(title=title, traces=traces, layout=axes)


def _with(
    figure: Figure,
    traces: list[dict[str, Any]],
    note: str,
    *,
    keys: tuple[str, ...],
    wide: bool = False,
) -> Figure:
    return Figure(
        title=figure.title,
        traces=figure.traces + traces,
        layout=figure.layout,
        note=note,
        wide=wide,
        keys=keys,
    )


def _bars(values: Mapping[int, float], name: str, index: int) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": name,
        "x": list(values),
        "y": [number(value) for value in values.values()],
        "hovertemplate": "%{y}",
        "marker": {"color": colour(index)},
    }


def _measured(values: Mapping[int, float], name: str = "measured") -> dict[str, Any]:
    steps = thin(list(values), BARS)
    marker = {"symbol": "diamond", "size": 8, "color": "@fg", "line": {"width": 1, "color": "@bg"}}
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": steps,
        "y": [number(values[step]) for step in steps],
        "hovertemplate": "%{y}",
        "line": {"color": "@fg", "width": 1, "dash": "dot"},
        "marker": marker,
    }


def _curve(values: Mapping[int, float], name: str) -> dict[str, Any]:
    steps = thin(list(values))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": steps,
        "y": [number(values[step]) for step in steps],
        "hovertemplate": "%{y}",
        "line": {"color": "@accent", "width": 2.5},
    }


def _gaps(steps: list[int]) -> list[int]:
    return [later - earlier for earlier, later in pairwise([0, *steps])]


def _summed(values: Mapping[int, float], weights: Mapping[int, int]) -> dict[int, float]:
    """Returns the running sum of value times weight; a step without a value adds nothing."""
    sums = accumulate(values.get(step, 0.0) * weight for step, weight in weights.items())
    return dict(zip(weights, sums, strict=True))
