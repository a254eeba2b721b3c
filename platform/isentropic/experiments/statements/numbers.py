"""Numbers of a run, and their differences between runs of the same seed."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from isentropic.metrics.report.run_data import RunData
from isentropic.metrics.report.settings import Mean, mean_of

Test = Callable[[RunData], bool]


def paired(
    runs: Sequence[RunData], one: Test, other: Test, number: Callable[[RunData], float]
) -> Mean:
    """one - other between runs of the same seed."""
    base = {run.setting("seed"): number(run) for run in runs if other(run)}
    own = {run.setting("seed"): number(run) for run in runs if one(run)}
    differences = [own[seed] - base[seed] for seed in sorted(own.keys() & base.keys())]
    return mean_of([value for value in differences if math.isfinite(value)])


def area(run: RunData) -> float:
    """Mean entropy over the steps of the run, in nats a token."""
    values = run.values("entropy/mean")
    return float(np.mean(values)) if values else math.nan


def last_entropy(run: RunData) -> float:
    values = run.values("entropy/mean")
    return float(np.mean(values[-max(1, len(values) // 10) :])) if values else math.nan


def slope(run: RunData, start: int) -> float:
    """Nats a step from step `start` on, by least squares; NaN for fewer than three steps."""
    points = [(step, value) for _, step, value in run.curve("entropy/mean") if step >= start]
    return float(np.polyfit(*zip(*points, strict=True), 1)[0]) if len(points) > 2 else math.nan
