"""How many points T3 asks for: against the closed form, and against a simulation of its own rule."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from isentropic.experiments.results.power import DISCOUNT, POWER, points_needed, power
from isentropic.experiments.statements.branches import HELD, LIMIT, POINTS, order_verdict
from isentropic.metrics.report.settings import Mean, in_blocks, mean_of


def tied(rng, tie, points):
    """Three rows of unit variance whose neighbours correlate by `tie`."""
    rows = rng.normal(size=(3, points))
    for at in range(1, points):
        rows[:, at] = tie * rows[:, at - 1] + math.sqrt(1 - tie**2) * rows[:, at]
    return rows


def pilot(value, spread, count=14):
    """A pilot's difference that is `value` after the discount, its spread per point `spread`."""
    error = spread / math.sqrt(count)
    return Mean(value=value + DISCOUNT * error, error=error, count=count)


@pytest.mark.parametrize(("value", "spread"), [(0.01, 0.02), (0.01, 0.03), (0.02, 0.1)])
def test_two_settings_need_what_the_normal_distribution_says(value, spread):
    # (3 + z) standard errors for the ends; the one neighbour is the same difference and above 0.
    quantile = NormalDist().inv_cdf(POWER)
    expected = ((LIMIT + quantile) * spread / value) ** 2
    assert points_needed(pilot(value, spread), [], most=10_000) == max(POINTS, math.ceil(expected))


def test_what_cannot_be_found_takes_no_number_of_points():
    assert points_needed(pilot(-0.01, 0.01), [], most=129) is None
    assert points_needed(pilot(0.5, 0.01), [pilot(-0.01, 0.01)], most=129) is None
    assert points_needed(mean_of([0.3]), [], most=129) is None  # one point has no error


def test_a_clear_order_takes_the_fewest_that_the_rule_asks_for():
    assert points_needed(pilot(1.0, 0.01), [pilot(0.5, 0.01)] * 2, most=129) == POINTS


@pytest.mark.parametrize(("tie", "low", "high"), [(0.0, 0.03, 0.08), (0.5, 0.06, 0.08)])
def test_the_rule_finds_an_order_that_is_there_as_often_as_promised(tie, low, high):
    """Three settings, planted steps of 0.1 and noise of 0.4 per point: the verdict on 1,000 sets.

    tie: correlation of neighbouring points, which multiplies the variance of a mean by (1 + tie) / (1 - tie).
    """
    steps, noise, rng = (0.1, 0.1), 0.4, np.random.default_rng(0)
    spread = noise * math.sqrt(2 * (1 + tie) / (1 - tie))
    ends, neighbours = pilot(sum(steps), spread), [pilot(step, spread) for step in steps]
    points = points_needed(ends, neighbours, most=1000)
    held = 0
    for _ in range(1000):
        levels = noise * tied(rng, tie, points) + np.array([[0.2], [0.1], [0.0]])
        first, second = levels[0] - levels[1], levels[1] - levels[2]
        found = [in_blocks([list(values)]) for values in (levels[0] - levels[2], first, second)]
        held += order_verdict(found[0], found[1:]) == HELD
    # Three standard errors of the simulation; blocks of five do not cut all of a tie.
    assert held / 1000 > POWER - low
    assert held / 1000 < POWER + high  # and no multiple of the points that are needed
    assert power(ends, neighbours, points) >= POWER > power(ends, neighbours, points - 1)
