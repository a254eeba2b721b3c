"""Bounds move until positive and negative parts balance, the lower first; the loss is PPO's between them."""

import math

import pytest
import torch

from isentropic.objectives import bapo
from isentropic.objectives.bapo import BapoConfig

GIVEN = {
    "c_low": 0.6,
    "c_low_max": 0.9,
    "c_high": 1.2,
    "c_high_max": 3.0,
    "step": 0.05,
    "target_ratio": 1.0,
}


def bounds(metrics):
    return metrics["bapo/c_low"][0], metrics["bapo/c_high"][0]


def test_balanced_batch_keeps_the_first_bounds(at, close):
    loss, slope, metrics = at(bapo, [1.0, 1.0, 1.5, 0.5], [1.0, -1.0, 1.0, -1.0], **GIVEN)
    assert bounds(metrics) == (0.6, 1.2)  # F+ = 1 + 1.2, F- = 1 + 0.6
    assert loss == close([-1.0, 1.0, -1.2, 0.6]) and slope == close([-1.0, 1.0, 0.0, 0.0])


def test_upper_bound_opens_until_the_target(at, close):
    """F- = 1.55; the low bound moves nothing. F+ = min(2, c_high) reaches it at 1.55: seven steps of 0.05."""
    loss, slope, metrics = at(bapo, [2.0, 1.0], [1.0, -1.53], **GIVEN)
    assert bounds(metrics) == (0.9, close(1.55))
    assert loss == close([-1.55, 1.53]) and slope == close([0.0, 1.53])


def test_both_caps_hold(at, close):
    *_, metrics = at(bapo, [1.0, 1.0], [1.0, -9.0], **GIVEN | {"step": 0.07})
    assert bounds(metrics) == (0.9, 3.0)


def test_raising_the_lower_bound_raises_the_negative_part(at, close):
    """F+ = 1.0; F- = max(0.5, c_low) * 1.5 = 0.9 at 0.6: the target 1.0 holds at once, 1.2 never does."""
    assert bounds(at(bapo, [1.0, 0.5], [1.0, -1.5], **GIVEN)[2]) == (0.6, 1.2)
    assert bounds(at(bapo, [1.0, 0.5], [1.0, -1.5], **GIVEN | {"target_ratio": 1.2})[2]) == (
        0.9,
        3.0,
    )


def test_no_negative_part_ends_the_search(at):
    assert bounds(at(bapo, [1.0, 1.0], [0.0, 0.0], **GIVEN)[2]) == (0.6, 1.2)


def test_dual_clip_and_extremes(at, close):
    log_ratio = torch.tensor([200.0, -200.0, 200.0, -200.0], dtype=torch.float64)
    loss, slope, _ = at(bapo, log_ratio, [-1.0, -1.0, 1.0, 1.0], **GIVEN, dual_clip=10.0)
    assert loss == close([10.0, 0.9, -3.0, -math.exp(-20)]) and slope == [0.0] * 4


def test_config_refuses_bounds_in_the_wrong_order():
    with pytest.raises(ValueError, match=r"objective.c_low_max must be >= 0.6 and <= 1, got 0.5"):
        BapoConfig(name="bapo", ratio="token", dual_clip=None, **GIVEN | {"c_low_max": 0.5})
