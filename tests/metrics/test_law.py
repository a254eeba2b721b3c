"""Fits whose coefficients can be worked out by hand, and the reasons not to fit."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isentropic.metrics.law import Law, fit, forecast, gaps, line, slope_error, value_error

THREE = [0.0, math.log(1.5), math.log(2.0)]  # exp(H) = 1, 1.5, 2


@pytest.mark.parametrize(
    ("score", "a", "b", "error"),
    [
        pytest.param([0.5, 0.4, 0.3], 0.2, 0.7, 0.0, id="on the line"),
        pytest.param([0.52, 0.38, 0.30], 0.22, 0.73, 0.0346410, id="residuals .01, -.02, .01"),
    ],
)
def test_line(score, a, b, error):
    x, y = np.exp(THREE), np.array(score)
    found = line(x, y)
    assert found == pytest.approx((a, b))
    assert slope_error(x, y, *found) == pytest.approx(error, abs=1e-7)


def test_the_ceiling_is_known_better_than_a_and_b():
    """exp(H) = 1, 1.5, 2: b is the line at 0, the ceiling at 1, and both lie beside the points."""
    x, y = np.exp(THREE), np.array([0.52, 0.38, 0.30])
    errors = [value_error(x, y, *line(x, y), at=at) for at in (0.0, 1.0)]

    assert errors == pytest.approx([0.0538516, 0.0223607], abs=1e-7)


def points(count=24, *, noise=0.0, a=0.2, b=0.7):
    entropy = np.log(np.linspace(2.0, 1.2, count))
    rng = np.random.default_rng(1)
    return entropy, b - a * np.exp(entropy) + noise * rng.normal(size=count)


def test_a_planted_law_is_found():
    law = fit(*points())
    assert (law.a, law.b, law.ceiling, law.r2, law.rmse) == pytest.approx((0.2, 0.7, 0.5, 1.0, 0.0))
    assert law.entropy_range == pytest.approx((math.log(1.2), math.log(2.0)))
    assert law.predict([math.log(2)]) == pytest.approx([0.3])


@settings(max_examples=25, deadline=10_000)
@given(st.lists(st.floats(0.01, 3.0), min_size=8, max_size=40))
def test_all_points_of_a_fit_are_inside_its_range(entropy):
    """log(exp(H)) is not H: of half of the points at the edge the last bit is another."""
    law = fit(entropy, [1 - math.exp(h) for h in entropy])
    if isinstance(law, Law):
        assert law.entropy_range == (min(entropy), max(entropy))
        assert len(gaps(law, entropy, [0.0] * len(entropy))) == len(entropy)


@pytest.mark.parametrize(
    ("lengths", "tie", "low", "high"),
    [
        ([60], 0.0, 0.87, 0.95),
        ([6, 6, 6], 0.0, 0.90, 0.985),
        ([6, 6, 6], 0.5, 0.90, 0.99),
        ([60], 0.5, 0.84, 0.93),
        ([60, 60, 60], 0.5, 0.87, 0.96),
        ([12], 0.5, 0.76, 0.87),  # twelve points do not show how tied they are
    ],
    ids=str,
)
def test_intervals_cover_what_was_planted_as_often_as_they_say(lengths, tie, low, high):
    """Of 500 sets: runs along a falling entropy, residuals of neighbours correlated by `tie`."""
    rng, a, b, hits = np.random.default_rng(0), 0.85, 1.7, np.zeros(2)
    for _ in range(500):
        entropy, rest = [], []
        for count in lengths:
            entropy += (np.linspace(0.43, 0.2, count) + 0.01 * rng.normal(size=count)).tolist()
            noise = rng.normal(size=count)
            for at in range(1, count):
                noise[at] = tie * noise[at - 1] + math.sqrt(1 - tie**2) * noise[at]
            rest += noise.tolist()
        law = fit(entropy, b - a * np.exp(entropy) + 0.02 * np.array(rest), lengths=lengths)
        for at, (truth, (left, right)) in enumerate(
            ((a, law.a_interval), (b - a, law.ceiling_interval))
        ):
            hits[at] += left < truth < right
    assert all(low < hit / 500 < high for hit in hits), hits / 500


@pytest.mark.parametrize(
    ("entropy", "score", "options", "reason"),
    [
        pytest.param(*points(7), {}, "7 points", id="too few"),
        pytest.param(
            np.linspace(0.3, 0.33, 20), np.linspace(0, 1, 20), {}, "moved by", id="entropy stood"
        ),
        pytest.param(
            *points(20), {"score_error": 0.1}, "the noise of one of them", id="score is noise"
        ),
        pytest.param(*points(20, a=-0.2), {}, "does not hold", id="the wrong sign"),
    ],
)
def test_reasons_not_to_fit(entropy, score, options, reason):
    assert reason in fit(entropy, score, **options)


def test_a_forecast_has_rivals():
    entropy, score = points(40, noise=0.002)
    found = forecast(range(40), entropy, score)
    assert found.count == 6
    assert found.law < found.logarithm and found.law < found.last


def test_a_forecast_of_a_law_that_is_none():
    """The score grows with log(1 + step), the entropy at random: the rival wins."""
    steps, rng = np.arange(40), np.random.default_rng(0)
    found = forecast(steps, rng.uniform(0.2, 0.6, 40), 0.1 * np.log1p(steps))
    assert found.logarithm < 1e-9 < found.law


def test_too_few_points_to_forecast():
    assert "too few" in forecast(range(5), [0.5] * 5, [0.1] * 5)


def test_gap_at_equal_entropy():
    law = Law(
        a=0.2, b=0.7, a_error=0.0, b_error=0.0, ceiling_error=0.0,
        a_interval=(0.2, 0.2), ceiling_interval=(0.5, 0.5), r2=1.0,
        rmse=0.0, count=3, entropy_range=(0.0, math.log(2)),
    )  # fmt: skip
    found = gaps(law, [math.log(1.5), math.log(3)], [0.44, 0.9])
    assert found == pytest.approx([0.04])  # the second lies outside the range


@pytest.mark.parametrize("score", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("error", [0.0, 0.01])
def test_a_score_that_stays_carries_no_law(score, error):
    entropy = np.linspace(0.2, 2.0, 12)
    assert fit(entropy, [score] * 12, score_error=error) == f"the score did not move from {score:g}"
