"""The charts of one run, in the order in which a reader asks.

How did the entropy move, what did that buy, what moved it, and is the run sound?
"""

from collections.abc import Callable

from isentropic.metrics.report.charts import books, cause, health, law, outcome
from isentropic.metrics.report.charts.figures import Figure, curves
from isentropic.metrics.report.run_data import RunData

LAW = "Reward against entropy"
SECTIONS: dict[str, tuple[Callable[[RunData], Figure | None], ...]] = {
    "Entropy": (outcome.entropy, outcome.deciles, outcome.histogram),
    "Reward": (outcome.reward, outcome.evaluation, outcome.groups, outcome.response),
    "What moved the entropy": (
        books.per_step,
        books.cumulated,
        books.impulse,
        books.sides,
        books.source,
        cause.drift,
        cause.changes,
        cause.classes,
        cause.clip,
        cause.given_back,
        cause.clipped_probability,
        cause.panel,
    ),
    LAW: (law.scatter, law.residuals),
    "Is it sound": (
        health.kl,
        health.grad_norm,
        health.mismatch,
        health.ratios,
        health.staleness,
        health.segments,
        health.throughput,
    ),
    "Time": (health.phases,),
}


# Of runs before the ledger: what a step of free logits would do explained 3 % of the changes.
GONE = ("entropy/predicted_change", "entropy/prediction_")


def run_charts(run: RunData) -> dict[str, list[Figure]]:
    """Draws the figures by section; a chart whose metrics the run lacks is left out."""
    drawn = {
        name: [figure for make in makers if (figure := make(run))]
        for name, makers in SECTIONS.items()
    }
    return {name: figures for name, figures in drawn.items() if figures}


def other_charts(run: RunData, shown: dict[str, list[Figure]], limit: int = 300) -> list[Figure]:
    """Draws one chart per group of metrics that no chart above has: mostly those of the method.

    limit: points per line.
    """
    seen = {key for figures in shown.values() for figure in figures for key in figure.keys}
    groups: dict[str, list[str]] = {}
    for key in run.metrics:
        if key.startswith(GONE) or key in seen or key.endswith("policy_version"):
            continue
        if "/" in key:
            groups.setdefault(key.rpartition("/")[0], []).append(key)
    figures = [
        curves(run, f"{name}/*", {key: key.rpartition("/")[2] for key in keys}, y="", limit=limit)
        for name, keys in groups.items()
    ]
    return [figure for figure in figures if figure]
