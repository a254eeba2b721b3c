"""Charts of one run: its entropy, and what was learned.

Each function returns None if the run lacks the metrics.
"""

from dataclasses import replace
from itertools import pairwise
from typing import Any

from isentropic.metrics.entropy import DECILES, ENTROPY_EDGES, START_ENTROPY
from isentropic.metrics.report.charts.figures import (
    PERCENT,
    POINTS,
    Figure,
    alarm_marks,
    colour,
    curves,
    error_bars,
    heat,
    layout,
    line,
    on_the_right,
    thin,
)
from isentropic.metrics.report.charts.law import binomial_error
from isentropic.metrics.report.reading import is_number, words
from isentropic.metrics.report.run_data import RunData

HISTOGRAM = "entropy/histogram"
BINOMIAL = (
    "Bars: the binomial standard error over the prompts, the largest that avg@k can have. The "
    "prompts are the same each time, so the change of a run is surer than its bars."
)


def entropy(run: RunData) -> Figure | None:
    names = {"entropy/mean": "mean, all response tokens", "entropy/trained": "trained on"}
    figure = curves(run, "Entropy of the policy", names, y="nats per token", wide=True)
    start = run.curve(START_ENTROPY, start=True)
    if figure is None and not start:
        return None
    traces = [trace for trace in figure.traces if trace["name"] != "alarm"] if figure else []
    mark = {"symbol": "diamond-open", "size": 10, "color": colour(0)}
    if start:
        traces.append(line(start, "start, held-out prompts", 0, mode="markers", marker=mark))
    traces += alarm_marks(run, (), on="entropy/mean")
    note = (
        "Exact, over the full vocabulary, at the training temperature, "
        "under the policy that drew the tokens."
    )
    return Figure(
        title="Entropy of the policy",
        traces=traces,
        layout=layout(y="nats per token", yaxis={"rangemode": "tozero"}),
        note=note,
        wide=True,
        keys=tuple(names),
    )


def deciles(run: RunData) -> Figure | None:
    keys = [f"entropy/decile_{index}" for index in range(DECILES)]
    rows = thin(
        [row for row in run.steps if any(is_number(row.get(key)) for key in keys)], POINTS // 4
    )
    if not rows:
        return None
    bands = [f"{10 * index}-{10 * index + 10} %" for index in range(DECILES)]
    z = [[row.get(key) for row in rows] for key in keys]
    return heat(
        "Entropy by position in the response",
        [row["step"] for row in rows],
        bands,
        z,
        unit="nats",
        y_title="part of the response",
        keys=keys,
    )


def histogram(run: RunData) -> Figure | None:
    rows = thin([row for row in run.steps if _is_histogram(row.get(HISTOGRAM))], POINTS // 4)
    if not rows:
        return None
    shares = [[count / sum(row[HISTOGRAM]) for count in row[HISTOGRAM]] for row in rows]
    used = max(index for share in shares for index, part in enumerate(share) if part) + 1
    bins = [f"{low:g} to {high:g}" for low, high in pairwise(ENTROPY_EDGES)][:used]
    z = [[share[index] for share in shares] for index in range(used)]
    return heat(
        "Tokens by their entropy",
        [row["step"] for row in rows],
        bins,
        z,
        unit="share",
        y_title="nats",
    )


def _is_histogram(counts: Any) -> bool:
    """Tells whether a value of a line is a count for each bin, and not 0 for all of them."""
    return (
        isinstance(counts, list)
        and len(counts) == len(ENTROPY_EDGES) - 1
        and all(is_number(count) and count >= 0 for count in counts)
        and sum(counts) > 0
    )


def reward(run: RunData) -> Figure | None:
    return curves(
        run, "Reward", {"reward/mean": "mean", "reward/std": "std over rollouts"}, y="task reward"
    )


def evaluation(run: RunData) -> Figure | None:
    k = words(run.setting("evaluation.samples") or "k")
    names = {"eval/avg_at_k": f"avg@{k}", "eval/pass_at_k": f"pass@{k}"}
    sets = [
        key
        for key in run.metrics
        if key.startswith("eval/") and key.count("/") == 2 and key.endswith("_at_k")
    ]
    if len(sets) > len(names):
        names |= {
            key: key.removeprefix("eval/").replace("_at_k", f"@{k}").replace("/", " ")
            for key in sets
        }
    figure = curves(run, "Held-out prompts", names, y="share", start=True, yaxis=PERCENT)
    if figure:
        for trace in figure.traces:
            trace["mode"] = "lines+markers"
            errors = [binomial_error(run, share or 0.0) for share in trace["y"]]
            if trace["name"] != "alarm" and any(errors):
                trace["error_y"] = error_bars(errors, trace["line"]["color"])
                figure = replace(figure, note=BINOMIAL)
    return figure


def groups(run: RunData) -> Figure | None:
    names = {"group/all_right_frac": "all right", "group/all_wrong_frac": "none right"}
    note = "These groups have no spread in reward: under group normalisation they teach nothing."
    return curves(
        run,
        "Flat groups",
        names,
        y="share of groups",
        yaxis=PERCENT | {"rangemode": "tozero"},
        note=note,
    )


def response(run: RunData) -> Figure | None:
    figure = curves(run, "Response length", {"response/tokens_mean": "tokens, mean"}, y="tokens")
    cut = run.curve("response/truncated_frac")
    if figure and any(value for _, _, value in cut):
        on_the_right(figure, [line(cut, "cut off", 1)], y="share cut off", **PERCENT)
    return figure
