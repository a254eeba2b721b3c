"""How many branch points T3 asks for: from a pilot's variance, decided before its runs are looked at."""

import math
from collections.abc import Sequence
from statistics import NormalDist

from isentropic.experiments.statements.branches import LIMIT, POINTS
from isentropic.metrics.report.settings import Mean

POWER = 0.9  # chance that an order which is there is found
# Of the pilot's own errors that are taken off its differences: a pilot that was lucky promises too much.
DISCOUNT = 1.0


def points_needed(ends: Mean, steps: Sequence[Mean], *, most: int) -> int | None:
    """Return the fewest points at which the order of T3 is found with `POWER`.

    None if `most` are too few; a difference of the wrong sign is not found with any number.

        P(found) >= Phi(d sqrt(n) / s - LIMIT) * prod_i Phi(d_i sqrt(n) / s_i)

    with d the mean of the paired difference of the two ends and s / sqrt(n) its error over n points
    (of blocks, as far as the pilot has enough; what runs differ by, one pilot cannot know), and d_i, s_i
    those of neighbours: the ends must be beyond `LIMIT` standard errors, each neighbour's
    mean above 0. The two are taken to be independent, which asks for a few points too many.

    Args:
        ends, steps: of the pilot, as `Mean`s over its points; an error smaller than it should be by
            chance is met by taking `DISCOUNT` of it off the value.
        most: points that can be had.
    """
    for points in range(POINTS, most + 1):
        if power(ends, steps, points) >= POWER:
            return points
    return None


def power(ends: Mean, steps: Sequence[Mean], points: int) -> float:
    """Return the chance of `points_needed` at that many points; 0 for a difference without an error."""
    chance = _phi(_distance(ends, points) - LIMIT)
    for step in steps:
        chance *= _phi(_distance(step, points))
    return chance


def _distance(mean: Mean, points: int) -> float:
    """Return the expected distance from 0 in standard errors at that many points."""
    if mean.count < 2 or not mean.error > 0:
        return -math.inf
    spread = mean.error * math.sqrt(mean.count)
    return (mean.value - DISCOUNT * mean.error) * math.sqrt(points) / spread


def _phi(distance: float) -> float:
    return NormalDist().cdf(distance) if math.isfinite(distance) else 0.0
