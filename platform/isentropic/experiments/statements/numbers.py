"""Numbers of a run, and their differences between runs of the same seed."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from isentropic.metrics.report.run_data import RunData
from isentropic.metrics.report.settings import Mean, mean_of

Test = Callable[[RunData], bool]
SEEDS = 3  # that a claim over runs asks for
# Neighbours in time that are averaged into one point: what ties them does not count twice.
BLOCK = 5
# What GRPO, DAPO and CE-GPPO have in the slots beside objective, terms and reduction.
PLAIN = {
    "advantage": "normalised",
    "reuse": "none",
    "reweight": "none",
    "sampling": "one_wave",
    "shaping": "none",
    "steering": "none",
}


def mean_difference(
    runs: Sequence[RunData], one: Test, other: Test, number: Callable[[RunData], float]
) -> Mean:
    """Return the mean of one - other over pairs of runs that have the same seed."""
    values, base = by_seed(runs, one), by_seed(runs, other)
    differences = [
        number(values[seed]) - number(base[seed]) for seed in sorted(values.keys() & base.keys())
    ]
    return mean_of([value for value in differences if math.isfinite(value)])


def in_blocks(series: Iterable[Sequence[float]]) -> Mean:
    """Return the mean over blocks of `BLOCK` neighbours or a few more; its error is that of blocks.

    Args:
        series: values in the order of time, of each run.
    """
    blocks = [
        float(np.mean(block))
        for values in series
        if values
        for block in np.array_split(values, max(1, len(values) // BLOCK))
    ]
    return mean_of(blocks)


def by_seed(runs: Sequence[RunData], test: Test) -> dict[Any, RunData]:
    """Return the runs that pass, by seed, without seeds that several have: none of them is the one."""
    passed = [run for run in runs if test(run)]
    seeds = Counter(run.setting("seed") for run in passed)
    return {run.setting("seed"): run for run in passed if seeds[run.setting("seed")] == 1}


def is_plain(run: RunData) -> bool:
    """Return True for a run whose method is its objective and terms, and nothing beside them."""
    slots = {key: run.config.get(key) or {} for key in PLAIN}
    return all(slots[key].get("name", name) == name for key, name in PLAIN.items())


def adds_terms(run: RunData) -> bool:
    """Return True if the loss has more than its objective: a term pushes tokens of every class."""
    terms = (run.config.get("terms") or {}).values()
    return any(value is not None for value in terms if not isinstance(value, str))


def area(run: RunData) -> float:
    """Return the mean entropy over the steps of the run, in nats per token."""
    values = run.values("entropy/mean")
    return float(np.mean(values)) if values else math.nan


def last_entropy(run: RunData) -> float:
    """Return the mean entropy over the last tenth of the steps."""
    values = run.values("entropy/mean")
    return float(np.mean(values[-max(1, len(values) // 10) :])) if values else math.nan


def slope(run: RunData, start: int) -> float:
    """Return nats per step from `start` on, by least squares; NaN for fewer than three steps."""
    points = [(step, value) for _, step, value in run.curve("entropy/mean") if step >= start]
    return float(np.polyfit(*zip(*points, strict=True), 1)[0]) if len(points) > 2 else math.nan
