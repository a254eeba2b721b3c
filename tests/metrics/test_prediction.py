"""The measured change with its error, the subset it is measured on, and the running correlation."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isentropic.metrics.prediction import (
    PredictionTracker,
    measured_change,
    predicted_change,
    recheck_subset,
)


def test_subset_has_its_share_and_keeps_the_order(make):
    rollouts = [make.rollout(draw, sample) for draw in range(20) for sample in range(4)]
    chosen = recheck_subset(rollouts, 0.125, seed=3)
    assert len(chosen) == 10
    assert chosen == sorted(chosen, key=lambda rollout: rollout.key)
    assert {r.key for r in recheck_subset(rollouts[::-1], 0.125, seed=3)} == {r.key for r in chosen}
    assert {r.key for r in recheck_subset(rollouts, 0.125, seed=4)} != {r.key for r in chosen}


def test_subset_has_two_rollouts_at_least_and_none_for_share_zero(make):
    rollouts = [make.rollout(0, sample) for sample in range(4)]
    assert len(recheck_subset(rollouts, 0.125, seed=0)) == 2
    assert recheck_subset(rollouts, 0.0, seed=0) == []


def test_change_and_its_error_by_hand():
    """D = (-1, 3) over n = (1, 3) tokens: change 2/4; D - n * change = (-1.5, 1.5); se = sqrt(2 * 4.5) / 4."""
    metrics = measured_change([np.ones(1), np.ones(3)], [np.zeros(1), np.full(3, 2.0)])
    assert metrics["entropy/measured_change"] == pytest.approx(0.5)
    assert metrics["entropy/measured_change_se"] == pytest.approx(0.75)
    assert metrics["entropy/recheck_tokens"] == 4


def test_error_covers_the_truth_at_its_rate():
    """Of 400 samples of 40 clustered rollouts, about 95 % lie within 1.96 errors of the true change."""
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        lengths = random.integers(1, 30, size=40)
        after = [0.1 + random.normal(0, 1) + random.normal(0, 0.3, size=n) for n in lengths]
        metrics = measured_change([np.zeros(n) for n in lengths], after)
        covered += (
            abs(metrics["entropy/measured_change"] - 0.1)
            < 1.96 * metrics["entropy/measured_change_se"]
        )
    assert 0.90 < covered / 400 < 0.98


def test_one_rollout_has_no_error_and_none_has_no_change():
    assert math.isnan(measured_change([np.ones(2)], [np.ones(2)])["entropy/measured_change_se"])
    assert math.isnan(measured_change([], [])["entropy/measured_change"])


def test_prediction_is_the_drift_times_the_rate():
    assert predicted_change(
        [{"drift/total": 2.0}, {"drift/total": -1.0}], [0.1, 0.2]
    ) == pytest.approx(0.0)


pairs = st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=3, max_size=30)


@settings(max_examples=50, deadline=None)
@given(pairs)
def test_running_correlation_is_that_of_numpy(values):
    tracker = PredictionTracker()
    for predicted, measured in values:
        metrics = tracker.add(predicted / 10, measured / 10)
    x, y = np.array(values, dtype=float).T / 10
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(metrics["entropy/prediction_correlation"])
    else:
        assert metrics["entropy/prediction_correlation"] == pytest.approx(
            np.corrcoef(x, y)[0, 1], abs=1e-9
        )
        assert metrics["entropy/prediction_slope"] == pytest.approx(
            np.polyfit(x, y, 1)[0], abs=1e-7
        )


def test_a_resumed_tracker_goes_on_with_the_same_bits():
    values = [(0.1, 0.3), (0.2, 0.1), (float("nan"), 1.0), (-0.5, -0.2), (0.7, 0.9), (0.3, 0.31)]
    whole, first, second = PredictionTracker(), PredictionTracker(), PredictionTracker()
    expected = [whole.add(*pair) for pair in values][-1]
    for pair in values[:3]:
        first.add(*pair)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.add(*pair) for pair in values[3:]][-1] == expected
