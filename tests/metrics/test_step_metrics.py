"""Rewards, ages and mismatch of a few rollouts by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from isentropic.metrics.step_metrics import (
    initial_kl,
    mismatch_metrics,
    response_metrics,
    reward_metrics,
    router_metrics,
    staleness_metrics,
)
from isentropic.records import Group, RouterUse


def test_rewards_and_flat_groups(make):
    groups = [
        make.group(0, [1, 1]),
        make.group(1, [0, 0]),
        make.group(2, [1, 0]),
        make.group(3, [0, 0.5]),
    ]
    metrics = reward_metrics(groups)
    assert metrics["reward/mean"] == pytest.approx(3.5 / 8)
    assert metrics["reward/std"] == pytest.approx(np.std([1, 1, 0, 0, 1, 0, 0, 0.5]))
    assert metrics["group/all_right_frac"] == 0.25
    assert metrics["group/all_wrong_frac"] == 0.5


def test_means_of_parts_leave_out_checks_that_failed(make):
    parts = [{"right": 1.0, "short": 0.5}, {"right": 0.0, "short": 0.0}, {}]
    rollouts = tuple(
        replace(make.rollout(0, sample), reward_parts=each) for sample, each in enumerate(parts)
    )
    metrics = reward_metrics([Group(draw=0, prompt=rollouts[0].prompt, rollouts=rollouts)])
    assert (metrics["reward/right_mean"], metrics["reward/short_mean"]) == (0.5, 0.25)
    assert not [key for key in reward_metrics([make.group(0, [1, 1])]) if key.endswith("_mean")]


def test_later_waves_and_teachers_do_not_bend_the_reward(make):
    wrong = make.rollout(0, 0, reward=0.0)
    later, teacher = make.rollout(0, 0, wave=1), make.rollout(0, 1, origin="teacher:book")
    metrics = reward_metrics([Group(draw=0, prompt=wrong.prompt, rollouts=(wrong, later, teacher))])
    assert metrics["reward/mean"] == 0.0 and metrics["group/all_wrong_frac"] == 1.0
    assert math.isnan(response_metrics([later, teacher])["response/tokens_mean"])


def test_truncated_responses(make):
    metrics = response_metrics(
        [make.rollout(0, 0, tokens=2), make.rollout(0, 1, tokens=6, finish_reason="length")]
    )
    assert metrics == {"response/tokens_mean": 4.0, "response/truncated_frac": 0.5}


def test_age_of_fresh_and_of_stored_samples(make):
    """In step 10 the weights after step 8 are one step old; those after step 9 are its own."""
    stale = make.rollout(0, 0, step=10, source_step=8)
    current = make.rollout(0, 1, step=10, source_step=9)
    teacher = make.rollout(0, 2, step=10, source_step=0, origin="teacher:book")
    samples = [make.sample(rollout) for rollout in (stale, current, teacher)]
    samples += [make.sample(make.rollout(0, 3, step=8), source="queue")]
    samples += [make.sample(make.rollout(0, 4, step=1), source="replay")]
    assert staleness_metrics(samples, step=10) == {
        "staleness/mean": 0.5,
        "staleness/max": 1.0,
        "age/queue_mean": 2.0,
        "age/replay_mean": 9.0,
    }
    assert staleness_metrics([], step=10) == {"staleness/mean": 0.0, "staleness/max": 0.0}


def test_mismatch_by_hand(make):
    """Log weights +ln 2 and -ln 2: w = 2 and 1/2, ess = 2.5^2 / (2 * 4.25)."""
    half = make.rollout(0, 0, tokens=1, logprob=-2.0)
    twice = make.rollout(0, 1, tokens=1, logprob=-2.0)
    hot = make.rollout(0, 2, tokens=1, logprob=-9.0, temperature=1.5)
    teacher = make.rollout(0, 3, tokens=1, logprob=float("nan"), origin="teacher:book")
    scores = {
        twice.key: make.scores([1.0], logprob=-2.0 + math.log(2)),
        half.key: make.scores([1.0], logprob=-2.0 - math.log(2)),
        hot.key: make.scores([1.0]),
        teacher.key: make.scores([1.0]),
    }
    metrics = mismatch_metrics([half, twice, hot, teacher], scores, temperature=1.0)
    assert metrics["mismatch/logprob_abs_max"] == pytest.approx(math.log(2), rel=1e-6)
    assert metrics["mismatch/logprob_abs_mean"] == pytest.approx(math.log(2), rel=1e-6)
    assert metrics["mismatch/k1"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["mismatch/k3"] == pytest.approx(1.25 - 1, rel=1e-6)
    assert metrics["mismatch/ess"] == pytest.approx(2.5**2 / (2 * 4.25), rel=1e-6)


def test_mismatch_of_no_rollout_is_not_a_number(make):
    assert math.isnan(mismatch_metrics([], {}, temperature=1.0)["mismatch/logprob_abs_max"])


def test_initial_kl_is_k3(make):
    scored = make.scores([1.0], logprob=-1.0, ref_logprob=-1.0 + math.log(2))
    assert initial_kl([scored])["kl/initial"] == pytest.approx(2 - 1 - math.log(2), rel=1e-6)
    assert math.isnan(initial_kl([make.scores([1.0])])["kl/initial"])


def test_load_of_experts():
    """10 tokens, 2 of 4 experts each: 5 choices per expert if they were even."""
    load = np.array([[5, 5, 5, 5], [10, 7, 3, 0]])
    use = RouterUse(load=load, entropy=np.array([10.0, 3.0]), tokens=10)

    assert router_metrics(use) == {
        "router/entropy": pytest.approx(0.65),
        "router/load_max": 2.0,
        "router/idle_frac": 0.125,
    }
    assert router_metrics(None) == {}
