"""Charts of one run: is it sound, and where does the time go."""

from isentropic.metrics.report.charts.figures import LOG, Figure, curves, line, stacked
from isentropic.metrics.report.run_data import RunData


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
    # A log axis shows no 0: a run whose every value is 0 would be an empty chart.
    has_positive = any(value > 0 for key in names for value in run.values(key))
    axis = LOG if has_positive else {}
    return curves(run, "Engine against learner", names, y="nats", note=note, yaxis=axis)


def ratios(run: RunData) -> Figure | None:
    names = {"ratio/p01": "1 %", "ratio/p50": "median", "ratio/p99": "99 %", "ratio/max": "max"}
    return curves(run, "Ratio to the old policy", names, y="ratio")


def staleness(run: RunData) -> Figure | None:
    names = {
        "staleness/mean": "new, mean",
        "staleness/max": "new, max",
        "age/queue_mean": "queue, mean",
    }
    return curves(
        run, "Age of what was trained on", names, y="steps", yaxis={"rangemode": "tozero"}
    )


def phases(run: RunData) -> Figure | None:
    keys = [
        key
        for key in run.metrics
        if key.startswith("time/") and key not in ("time/step_s", "time/eval_s")
    ]
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
    return curves(run, "Throughput", names, y="tokens / s", yaxis={"rangemode": "tozero"})
