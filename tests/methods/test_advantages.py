"""Advantages of small groups, worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentropic.methods.advantages import Centred, LeaveOneOut, Normalised, QuantileBaseline

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


@given(st.lists(st.integers(-5, 5), max_size=9), st.sampled_from([np.int64, np.int8, np.float16]))
def test_whole_rewards_have_the_advantages_of_their_values(rewards, dtype):
    """Of 3, 0, 0 and 1 the mean is 1, but of 1, 0 it is 0.5: as integers both advantages were 0."""
    for advantage in (NORMALISED, POPULATION, CENTRED, LEAVE_ONE_OUT, quantile()):
        whole, exact = advantage(np.array(rewards, dtype)), advantage(np.array(rewards, np.float64))
        assert whole.dtype == (dtype if dtype is np.float16 else np.float64)
        np.testing.assert_allclose(whole, exact, rtol=1e-3 if dtype is np.float16 else 0)


def test_right_and_wrong_as_truth_values():
    assert CENTRED(np.array([True, False])).tolist() == [0.5, -0.5]


def test_config_refuses():
    with pytest.raises(
        ValueError, match=r"advantage.std must be one of unbiased, population; got 'biased'"
    ):
        Normalised(name="normalised", std="biased")


def quantile(level=0.4, kind="step", std="population"):
    return QuantileBaseline(name="quantile", level=level, quantile=kind, std=std)


@pytest.mark.parametrize(
    ("kind", "wrong", "baseline"),
    [
        pytest.param("step", 3, 1.0, id="paper: 3 of 8 are not more than 0.4 of them"),
        pytest.param("step", 4, 0.0, id="paper: 4 of 8 are"),
        pytest.param("linear", 3, 0.8, id="code: between the third and the fourth"),
        pytest.param("linear", 4, 0.0, id="code: both are wrong"),
    ],
)
def test_quantile_baseline(kind, wrong, baseline):
    rewards = np.array([0.0] * wrong + [1.0] * (8 - wrong))
    expected = (rewards - baseline) / (rewards.std() + 1e-6)
    np.testing.assert_allclose(quantile(kind=kind)(rewards), expected, rtol=1e-12)


def test_a_share_that_is_exactly_the_level_is_not_more_than_it():
    """2 of 5 wrong at K = 0.4: F(0) = 0.4 is not above 0.4, so the baseline is 1."""
    assert quantile()(np.array([0.0, 0, 1, 1, 1])).tolist()[2:] == [0, 0, 0]
    assert quantile(level=0.39)(np.array([0.0, 0, 1, 1, 1])).tolist()[:2] == [0, 0]


@pytest.mark.parametrize("rewards", [[1.0], [0.5, 0.5, 0.5]])
def test_quantile_of_one_or_of_equals_teaches_nothing(rewards):
    assert not quantile()(np.array(rewards)).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"level": 1.0}, "advantage.level"), ({"kind": "upper"}, "advantage.quantile"),
     ({"std": "none"}, "advantage.std")],
)  # fmt: skip
def test_bad_quantiles(changes, message):
    with pytest.raises(ValueError, match=message):
        quantile(**changes)
