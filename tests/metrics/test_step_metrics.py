"""Rewards, ages and mismatch of a few rollouts by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from isentropic.metrics.step_metrics import (
    LengthBias,
    error_metrics,
    flight_metrics,
    initial_kl,
    mismatch_metrics,
    response_metrics,
    reward_metrics,
    router_metrics,
    segment_metrics,
    staleness_metrics,
)
from isentropic.records import Group, RouterUse, Segment


def test_checks_that_gave_no_reward():
    assert error_metrics(3, 12) == {"reward/errors": 3, "reward/errors_frac": 0.25}
    assert math.isnan(error_metrics(0, 0)["reward/errors_frac"])


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


def test_a_part_that_a_reward_lacks_counts_zero_in_its_mean(make):
    parts = [{"right": 1.0}, {"right": 1.0, "short": 0.5}, {"short": 0.5}, {}]
    rollouts = tuple(
        replace(make.rollout(0, sample), reward_parts=each) for sample, each in enumerate(parts)
    )
    metrics = reward_metrics([Group(draw=0, prompt=rollouts[0].prompt, rollouts=rollouts)])
    assert metrics["reward/right_mean"] == pytest.approx(2 / 3)
    assert metrics["reward/short_mean"] == pytest.approx(1 / 3)


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


def segment(start, step, source_step=None):
    """Of the phase of a step, under the weights that the step begins with."""
    source_step = step - 1 if source_step is None else source_step
    return Segment(start=start, step=step, source_step=source_step, policy_version=step, seed=0)


def test_staleness_of_segments_is_over_tokens(make):
    """In step 10: one token from the weights after step 7, three from its own; and one stale by 1."""
    mixed = make.rollout(0, 0, tokens=4, step=10, segments=(segment(0, 8), segment(1, 10)))
    stale = make.rollout(0, 1, tokens=1, step=10, segments=(segment(0, 9),))
    metrics = staleness_metrics([make.sample(mixed), make.sample(stale)], step=10)
    assert metrics == {"staleness/mean": (2 * 1 + 0 * 3 + 1) / 5, "staleness/max": 2.0}


def test_mismatch_leaves_out_what_older_weights_wrote(make):
    """Of four tokens the last two are the newest; the others differ by a whole nat."""
    mixed = make.rollout(0, 0, tokens=4, logprob=-2.0, segments=(segment(0, 8), segment(2, 10)))
    scores = {mixed.key: make.scores([1.0] * 4, logprob=-2.0)}
    scores[mixed.key].logprob[:] = [-1.0, -1.0, -2.25, -2.0]
    metrics = mismatch_metrics([mixed], scores, 1.0, source_step=9)
    assert metrics["mismatch/logprob_abs_max"] == 0.25
    assert metrics["mismatch/logprob_abs_mean"] == 0.125
    old = mismatch_metrics([mixed], scores, 1.0, source_step=10)
    assert math.isnan(old["mismatch/logprob_abs_max"]), "nothing is of the newest weights"


def in_segments(make, draw, *lengths):
    """A finished group with responses of these lengths, all written in step 1."""
    first = make.rollout(draw, 0)
    rollouts = tuple(
        make.rollout(draw, sample, tokens=tokens, segments=(segment(0, 1),))
        for sample, tokens in enumerate(lengths)
    )
    return Group(draw=draw, prompt=first.prompt, rollouts=rollouts)


def test_length_bias_by_hand(make):
    """Draw 0 is long and comes last: until then nothing says what the short ones are short of."""
    bias = LengthBias()
    assert math.isnan(bias.add([in_segments(make, 1, 2, 4)])["segments/length_bias"])
    # Now draws 0 and 1 are whole: a mean of (10 + 6) / 4 = 4; with draw 3 it is (16 + 2) / 6 = 3.
    found = bias.add([in_segments(make, 3, 1, 1), in_segments(make, 0, 5, 5)])
    assert found == {"segments/length_bias": pytest.approx(3 / 4 - 1)}
    again = LengthBias()
    again.load_state_dict(bias.state_dict())
    last = [in_segments(make, 2, 7, 7)]
    assert again.add(last) == bias.add(last) == {"segments/length_bias": 0.0}


def test_without_segments_there_is_nothing_to_say(make):
    groups = [make.group(0, [1, 1])]
    assert segment_metrics(groups, 3) == LengthBias().add(groups) == {}


def test_lag_counts_from_the_first_token_of_a_group(make):
    """In step 5: one group was begun in step 2, another in step 5."""
    early = make.rollout(0, 0, tokens=4, segments=(segment(0, 2), segment(2, 3)))
    late = make.rollout(0, 1, tokens=4, segments=(segment(0, 3),))
    fresh = make.rollout(1, 0, tokens=4, segments=(segment(0, 5), segment(2, 5), segment(3, 5)))
    groups = [
        Group(draw=0, prompt=early.prompt, rollouts=(early, late)),
        Group(draw=1, prompt=fresh.prompt, rollouts=(fresh,)),
    ]
    assert segment_metrics(groups, 5) == {
        "segments/per_rollout_mean": 2.0,
        "segments/lag_mean": 1.5,
        "segments/lag_max": 3.0,
    }
    part = make.rollout(2, 0, tokens=3, finish_reason="unfinished", segments=(segment(0, 5),))
    carried = [Group(draw=2, prompt=part.prompt, rollouts=(part, early))]
    assert flight_metrics(groups, carried, 5) == {
        "segments/carried_prompts": 1,
        "segments/carried_finished": 0,
        "segments/carried_tokens": 7,
        "segments/phase_tokens_max": 4,
    }


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
