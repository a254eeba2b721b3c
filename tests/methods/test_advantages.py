"""Advantages of small groups, worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentropic.methods.advantages import Centred, LeaveOneOut, Normalised

NORMALISED = Normalised(name="normalised", std="unbiased")
POPULATION = Normalised(name="normalised", std="population")
CENTRED = Centred(name="centred")
LEAVE_ONE_OUT = LeaveOneOut(name="leave_one_out")


@pytest.mark.parametrize(
    ("correct", "right", "wrong"),
    [
        (1, 2.47487, -0.35355),
        (2, 1.62018, -0.54006),
        (3, 1.20761, -0.72457),
        (4, 0.93541, -0.93541),
    ],
)
def test_normalised_for_groups_of_eight(correct, right, wrong):
    """Rewards +-1, unbiased std + 1e-6; the population std gives sqrt(8 / 7) times as much."""
    rewards = np.array([1.0] * correct + [-1.0] * (8 - correct))
    got = NORMALISED(rewards)
    np.testing.assert_allclose(got, [right] * correct + [wrong] * (8 - correct), atol=5e-6)
    np.testing.assert_allclose(POPULATION(rewards), got * np.sqrt(8 / 7), rtol=1e-6)


def test_epsilon_is_outside_the_root():
    """std of (0, 2e-6) is sqrt(2) 1e-6: A = -+1 / (sqrt 2 + 1)."""
    np.testing.assert_allclose(
        NORMALISED(np.array([0.0, 2e-6])), np.array([-1, 1]) / (np.sqrt(2) + 1), rtol=1e-9
    )


def test_centred_and_leave_one_out():
    rewards = np.array([3.0, 0.0, 0.0])
    assert CENTRED(rewards).tolist() == [2.0, -1.0, -1.0]
    assert LEAVE_ONE_OUT(rewards).tolist() == [3.0, -1.5, -1.5]  # 3 - 0, 0 - (3 + 0) / 2


@pytest.mark.parametrize("advantage", [NORMALISED, POPULATION, CENTRED, LEAVE_ONE_OUT])
@pytest.mark.parametrize("rewards", [[], [0.7], [0.1] * 7])
def test_flat_groups_have_exactly_none(advantage, rewards):
    """The float64 mean of seven times 0.1 is not 0.1."""
    assert advantage(np.array(rewards)).tolist() == [0.0] * len(rewards)


@given(st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=16))
def test_advantages_sum_to_0_and_keep_the_order(rewards):
    rewards = np.array(rewards, dtype=np.float32)
    for advantage in (NORMALISED, POPULATION, CENTRED, LEAVE_ONE_OUT):
        got = advantage(rewards)
        assert got.dtype == np.float32
        assert abs(float(got.astype(np.float64).sum())) < 1e-4
        assert (np.diff(got[np.argsort(rewards, kind="stable")]) >= 0).all()


def test_config_refuses():
    with pytest.raises(
        ValueError, match=r"advantage.std must be one of unbiased, population; got 'biased'"
    ):
        Normalised(name="normalised", std="biased")
