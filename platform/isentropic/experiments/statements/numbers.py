"""Numbers of a run, and their differences between runs of the same seed."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from isentropic.metrics.report.run_data import RunData
from isentropic.metrics.report.settings import Mean, mean_of

Test = Callable[[RunData], bool]
SEEDS = 3  # that a claim over runs asks for


def mean_difference(
    runs: Sequence[RunData], one: Test, other: Test, number: Callable[[RunData], float]
) -> Mean:
    """Return the mean of one - other over pairs of runs that have the same seed."""
    base = {run.setting("seed"): number(run) for run in runs if other(run)}
    values = {run.setting("seed"): number(run) for run in runs if one(run)}
    differences = [values[seed] - base[seed] for seed in sorted(values.keys() & base.keys())]
    return mean_of([value for value in differences if math.isfinite(value)])


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
