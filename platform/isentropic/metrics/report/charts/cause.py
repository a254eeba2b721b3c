"""Charts of one run: what moved the entropy. docs/metrics.md defines the metrics."""

from typing import Any

from isentropic.metrics.classes import CLASSES
from isentropic.metrics.report.charts.figures import (
    PERCENT,
    Figure,
    colour,
    curves,
    layout,
    number,
    stacked,
    thin,
)
from isentropic.metrics.report.reading import is_number
from isentropic.metrics.report.run_data import RunData

CLASS_NOTE = "PA, NA: advantage above, below 0. HP, LP: high-, low-probability tokens."
CLASS_NAMES = dict(zip(CLASSES, ("PA&HP", "PA&LP", "NA&HP", "NA&LP", "A=0"), strict=True))


def books(run: RunData) -> Figure | None:
    """Stacks what moved the entropy in each measured step, with the measured change on top."""
    measured = run.curve("ledger/measured")
    if not measured:
        return None
    parts = {f"ledger/{name}": label for name, label in CLASS_NAMES.items()}
    parts |= {"ledger/momentum": "momentum", "ledger/decay": "weight decay"}
    traces = [
        {
            "type": "bar",
            "name": label,
            "x": [step for _, step, _ in run.curve(key)],
            "y": [number(value) for _, _, value in run.curve(key)],
            "hovertemplate": "%{y:.3~g} nats",
            "marker": {"color": colour(index)},
        }
        for index, (key, label) in enumerate(parts.items())
        if any(value for _, _, value in run.curve(key))
    ]
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "measured",
            "x": [step for _, step, _ in measured],
            "y": [number(value) for _, _, value in measured],
            "hovertemplate": "%{y:.3~g} nats",
            "marker": {"symbol": "diamond", "size": 8, "color": "@muted"},
        }
    )
    explained = run.values("ledger/explained")
    share = f" They explain {explained[-1]:.2%} of the changes." if explained else ""
    return Figure(
        title="What moved the entropy, in nats",
        traces=traces,
        layout=layout(
            x="step",
            y="nats per token",
            barmode="relative",
            xaxis={"type": "category"},
            yaxis={"zeroline": True},
        ),
        note=f"Each measured step, along the step that the optimizer made: tokens by class, the "
        f"momentum of earlier updates, weight decay.{share} {CLASS_NOTE}",
        wide=True,
        keys=("ledger/measured", "ledger/explained", *parts),
    )


def clip(run: RunData) -> Figure | None:
    names = {
        "clip/low_frac": "low side (A<0)",
        "clip/high_frac": "high side (A>0)",
        "clip/frac": "both",
    }
    if any(run.values("clip/dual_frac")):
        names["clip/dual_frac"] = "dual"
    return curves(
        run, "Clipped tokens", names, y="share of tokens", yaxis=PERCENT | {"rangemode": "tozero"}
    )


def classes(run: RunData) -> Figure | None:
    return stacked(
        run,
        "Gradient mass by class",
        {f"grad_share/{name}": label for name, label in CLASS_NAMES.items()},
        y="share of |push|",
        yaxis=PERCENT | {"range": [0, 1]},
        note=CLASS_NOTE,
    )


def given_back(run: RunData) -> Figure | None:
    names = {f"grad_share/{side}": f"{side} side, this objective" for side in ("low", "high")}
    return curves(
        run,
        "Gradient mass outside the interval",
        names,
        y="share of |push|",
        yaxis=PERCENT | {"rangemode": "tozero"},
        note="Mass on tokens outside the clip interval: PPO's is 0, the rest is what this "
        "objective gives back.",
    )


def prediction(run: RunData) -> Figure | None:
    rows = [
        row
        for row in run.steps
        if is_number(row.get("entropy/predicted_change"))
        and is_number(row.get("entropy/measured_change"))
    ]
    if not rows:
        return None
    rows = thin(rows)
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": "steps",
        "x": [number(row["entropy/predicted_change"]) for row in rows],
        "y": [number(row["entropy/measured_change"]) for row in rows],
        "customdata": [[row["step"], row.get("policy_version")] for row in rows],
        "hovertemplate": "step %{customdata[0]}, version %{customdata[1]}<br>"
        "predicted %{x:.3~g}, measured %{y:.3~g}<extra></extra>",
        "marker": {
            "size": 7,
            "color": [row["step"] for row in rows],
            "colorscale": "Viridis",
            "colorbar": {
                "title": {"text": "step", "side": "right"},
                "thickness": 12,
                "outlinewidth": 0,
            },
        },
    }
    errors = [row.get("entropy/measured_change_se") for row in rows]
    if any(is_number(error) for error in errors):
        bars = [number(error) or 0 for error in errors]
        trace["error_y"] = {
            "type": "data",
            "array": bars,
            "thickness": 1,
            "width": 0,
            "color": "@muted/0.6",
        }
    axes = layout(x="predicted, first order (nats)", y="measured (nats)", hovermode="closest")
    axes["xaxis"]["zeroline"] = True
    axes["yaxis"]["zeroline"] = True
    note = (
        f"{_correlation(run)} The prediction leaves out Adam: read its sign and correlation, "
        "not its size."
    )
    return Figure(
        title="Entropy change of a step: predicted and measured",
        traces=[trace],
        layout=axes,
        note=note.strip(),
        keys=(
            "entropy/predicted_change",
            "entropy/prediction_correlation",
            "entropy/prediction_slope",
        ),
    )


def changes(run: RunData) -> Figure | None:
    names = {"entropy/measured_change": "measured"}
    skip = ("entropy/measured_change_se", "entropy/recheck_tokens")
    figure = curves(
        run, "Measured entropy change of a step", names, y="nats", yaxis={"zeroline": True}
    )
    if figure is None:
        return None
    errors = {row["step"]: row.get("entropy/measured_change_se") for row in run.steps}
    trace = figure.traces[0]
    bars = [number(errors.get(step)) or 0 for step in trace["customdata"]]
    trace["error_y"] = {
        "type": "data",
        "array": bars,
        "thickness": 1,
        "width": 0,
        "color": colour(0, 0.5),
    }
    return Figure(
        title=figure.title, traces=figure.traces, layout=figure.layout, keys=(*names, *skip)
    )


def drift(run: RunData) -> Figure | None:
    names = {f"drift/{name}": label for name, label in CLASS_NAMES.items() if name != "zero_adv"}
    names["drift/total"] = "sum"
    note = "First-order entropy change per unit learning rate that each class of tokens asks for."
    return curves(
        run,
        "Entropy drift by class",
        names,
        y="nats / learning rate",
        note=note,
        yaxis={"zeroline": True},
    )


def clipped_probability(run: RunData) -> Figure | None:
    names = {"lp_given_low": "of the low side", "lp_given_high": "of the high side"}
    note = "Share of low-probability tokens among those clipped."
    return curves(
        run,
        "Who is clipped",
        names,
        y="low probability",
        note=note,
        yaxis=PERCENT | {"range": [0, 1.02]},
    )


def panel(run: RunData) -> Figure | None:
    labels = [
        key.split("/")[1]
        for key in run.metrics
        if key.startswith("cf/") and key.endswith("/cosine")
    ]
    note = (
        "Cosine of the push each objective would have given to the same tokens, "
        "with the push that was used."
    )
    names = {f"cf/{label}/cosine": label for label in labels}
    return curves(run, "Other objectives on the same batch", names, y="cosine", note=note)


def _correlation(run: RunData) -> str:
    values = run.values("entropy/prediction_correlation")
    return f"Correlation over the run {values[-1]:.2f}." if values else ""
