"""The measured change with its error, and the subset it is measured on."""

import math

import numpy as np
import pytest

from isentropic.metrics.recheck import measured_change, recheck_subset


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
