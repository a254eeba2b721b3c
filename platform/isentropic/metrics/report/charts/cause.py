"""Charts of one run: what moved the entropy. docs/metrics.md defines the metrics."""

from dataclasses import replace

from isentropic.metrics.classes import LABELS
from isentropic.metrics.report.charts.books import CLASS_NOTE
from isentropic.metrics.report.charts.figures import (
    PERCENT,
    ZERO,
    Figure,
    colour,
    curves,
    error_bars,
    stacked,
)
from isentropic.metrics.report.run_data import RunData


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
        {f"grad_share/{name}": label for name, label in LABELS.items()},
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


def changes(run: RunData) -> Figure | None:
    names = {"entropy/measured_change": "measured"}
    figure = curves(run, "Measured entropy change of a step", names, y="nats", yaxis=ZERO)
    if figure is None:
        return None
    errors = {row["step"]: row.get("entropy/measured_change_se") for row in run.steps}
    trace = figure.traces[0]
    trace["error_y"] = error_bars([errors.get(step) for step in trace["x"]], colour(0, 0.5))
    note = "With its standard error, on a share of the contexts that the step trained on."
    aside = ("entropy/measured_change_se", "entropy/recheck_tokens")
    return replace(figure, note=note, keys=(*names, *aside))


def drift(run: RunData) -> Figure | None:
    names = {f"drift/{name}": label for name, label in LABELS.items() if name != "zero_adv"}
    names["drift/total"] = "sum"
    note = "First-order entropy change per unit learning rate that each class of tokens asks for."
    return curves(
        run,
        "Entropy drift by class",
        names,
        y="nats / learning rate",
        note=note,
        yaxis=ZERO,
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
