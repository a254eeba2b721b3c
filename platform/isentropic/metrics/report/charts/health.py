"""Charts of one run: is it sound, and where does the time go."""

from dataclasses import replace

from isentropic.metrics.report.charts.figures import (
    LOG,
    THOUSANDS,
    Figure,
    curves,
    line,
    on_the_right,
    stacked,
)
from isentropic.metrics.report.run_data import RunData

# Not a phase of the step: the step itself, the evaluation, and what runs after the clock stopped.
OUTSIDE = ("time/step_s", "time/eval_s", "time/accounting_s")


def kl(run: RunData) -> Figure | None:
    names = {
        "kl/k1": "k1, to the old policy",
        "kl/k3": "k3, to the old policy",
        "kl/initial": "to the reference",
    }
    return curves(run, "KL", names, y="nats per token", yaxis={"zeroline": True})


def grad_norm(run: RunData) -> Figure | None:
    return curves(
        run,
        "Gradient norm, before clipping",
        {"grad_norm/mean": "mean", "grad_norm/max": "max"},
        y="L2 norm",
    )


def mismatch(run: RunData) -> Figure | None:
    names = {
        "mismatch/logprob_abs_max": "rollouts, max",
        "mismatch/logprob_abs_mean": "rollouts, mean",
        "sync/probe_logprob_abs_max": "probe after the sync, max",
    }
    note = "|engine - learner| on the tokens the engine drew."
    return curves(run, "Engine against learner", names, y="nats", note=note, yaxis=LOG)


def ratios(run: RunData) -> Figure | None:
    names = {"ratio/p01": "1 %", "ratio/p50": "median", "ratio/p99": "99 %", "ratio/max": "max"}
    note = "Log scale: the largest ratio of a step is often a hundred times the median."
    return curves(run, "Ratio to the old policy", names, y="ratio", note=note, yaxis=LOG)


def staleness(run: RunData) -> Figure | None:
    names = {
        "staleness/mean": "new, mean",
        "staleness/max": "new, max",
        "age/queue_mean": "queue, mean",
    }
    return curves(
        run, "Age of what was trained on", names, y="steps", yaxis={"rangemode": "tozero"}
    )


def segments(run: RunData) -> Figure | None:
    """Draws what each step leaves in flight, and how late its prompts come; None if nothing is."""
    names = {
        "segments/carried_prompts": "carried",
        "segments/carried_finished": "of them finished",
    }
    lags = {"segments/lag_mean": "lag, mean (right)", "segments/lag_max": "lag, max (right)"}
    note = (
        "Prompts whose answers go on in the next step, and how many steps after its first one a "
        "prompt is trained on."
    )
    figure = curves(
        run,
        "Carried to the next step",
        names,
        y="prompts",
        note=note,
        yaxis={"rangemode": "tozero"},
    )
    if figure is None:
        return None
    late = [
        line(run.curve(key), name, index)
        for index, (key, name) in enumerate(lags.items(), start=len(names))
        if any(run.values(key))
    ]
    if late:
        on_the_right(figure, late, y="steps")
    return replace(figure, keys=(*names, *lags))


def phases(run: RunData) -> Figure | None:
    keys = [key for key in run.metrics if key.startswith("time/") and key not in OUTSIDE]
    names = {key: key.removeprefix("time/").removesuffix("_s").replace("_", " ") for key in keys}
    figure = stacked(
        run,
        "Seconds per step, by phase",
        names,
        y="seconds",
        yaxis={"rangemode": "tozero"},
        wide=True,
    )
    if figure and run.has("time/step_s"):
        whole = {"color": "@fg", "width": 1.5, "dash": "dot"}
        figure.traces.append(
            line(run.curve("time/step_s"), "whole step", 0, mode="lines", line=whole)
        )
    return figure


def throughput(run: RunData) -> Figure | None:
    names = {"throughput/rollout_tok_s": "rollout", "throughput/learner_tok_s": "learner"}
    axis = THOUSANDS | {"rangemode": "tozero"}
    return curves(run, "Throughput", names, y="tokens / s", yaxis=axis)
