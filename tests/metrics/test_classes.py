"""Class and clip side of single tokens, worked out by hand."""

import math

import numpy as np
import pytest

from isentropic.metrics import tokens
from isentropic.metrics.classes import (
    CLASSES,
    class_index,
    clip_sides,
    high_by_probability,
    high_by_sensitivity,
)
from isentropic.objectives.loss import token_loss


def test_ratios_are_bounded_as_the_losses_bound_them():
    assert tokens.LOG_RATIO_LIMIT == token_loss.LOG_RATIO_LIMIT


@pytest.mark.parametrize(
    ("advantage", "probability", "name"),
    [
        pytest.param(1.0, 0.501, "pa_hp", id="above the split"),
        pytest.param(1.0, 0.499, "pa_lp", id="below the split"),
        pytest.param(-1.0, 0.9, "na_hp", id="punished, likely"),
        pytest.param(-1.0, 0.1, "na_lp", id="punished, unlikely"),
        pytest.param(0.0, 0.9, "zero_adv", id="no advantage, whatever its probability"),
    ],
)
def test_class_by_probability(advantage, probability, name):
    high = high_by_probability(np.log([probability]), 0.5)
    assert CLASSES[class_index(np.array([advantage]), high)[0]] == name


def test_the_split_itself_is_high():
    assert high_by_probability(np.zeros(1), 1.0)[0]


def test_class_by_sensitivity_counts_zero_as_low():
    high = high_by_sensitivity(np.array([1e-12, 0.0, -1e-12]))
    assert high.tolist() == [True, False, False]


def sides(ratio, advantage, bounds, own=None):
    return clip_sides(np.array(ratio), np.array(advantage), bounds, own)


def test_sides_of_the_clip_are_strict_and_ask_for_the_sign():
    bounds = {"clip_low": 0.25, "clip_high": 0.5, "dual_clip": 3.0}
    ratio = [0.75, 0.7, 0.7, 1.5, 1.6, 1.6, 3.0, 3.1]
    advantage = [-1, -1, 1, 1, 1, -1, -1, -1]
    found = sides(ratio, advantage, bounds)
    assert found.low.tolist() == [False, True, False, False, False, False, False, False]
    assert found.high.tolist() == [False, False, False, False, True, False, False, False]
    assert found.below.tolist() == [False, False, True, False, False, False, False, False]
    assert found.above.tolist() == [False, False, False, False, False, True, True, True]
    assert found.dual.tolist() == [False, False, False, False, False, False, False, True]


@pytest.mark.parametrize("bounds", [{}, {"clip_low": None, "clip_high": None, "dual_clip": None}])
def test_no_bound_clips_nothing(bounds):
    found = sides([0.01, 100.0, 0.01, 100.0], [-1, 1, 1, -1], bounds)
    assert not any(
        mask.any() for mask in (found.low, found.high, found.below, found.above, found.dual)
    )


def test_an_objective_that_says_what_it_clips_is_believed_with_the_sign_on_top():
    own = {"clip/low_frac": np.array([1.0, 1.0, 0.0]), "clip/high_frac": np.array([0.0, 0.0, 1.0])}
    found = sides([0.1, 0.1, 1.0], [-1, 1, 1], {"clip_low": 0.99}, own)
    assert found.low.tolist() == [True, False, False]
    assert found.high.tolist() == [False, False, True]


@pytest.mark.parametrize("split", [0.1, 0.25, 0.3, 0.5, 0.75, 1.0])
def test_a_token_at_the_split_is_high_in_the_precision_that_logprobs_come_in(split):
    logprob = np.array([math.log(split)], dtype=np.float32)
    assert high_by_probability(logprob.astype(np.float64), split).all()
    below = np.nextafter(logprob, np.float32(-1e9))
    assert not high_by_probability(below.astype(np.float64), split).any()
