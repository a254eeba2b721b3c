"""The thresholds of each wave, worked out for groups of 5 and 20; the overlong filter; why one is dropped."""

from dataclasses import replace

import numpy as np
import pytest

from isentropic.methods.advantages import Normalised
from isentropic.methods.fates import FATES
from isentropic.methods.filters import DropFlat
from isentropic.methods.uec_rl.keep_rules import KeepRules, keep_metrics

NORMALISED = Normalised(name="normalised", std="unbiased")


def make(**changes):
    fields = {
        "name": "keep_rules", "keep": "positive", "keep_regular": 0.05, "keep_explore": 1.0, "overlong_filter": True,
    }  # fmt: skip
    return KeepRules(**(fields | changes))


def advantages(group) -> dict:
    out = {}
    for wave in {r.key.wave for r in group.rollouts}:
        members = group.wave(wave)
        values = NORMALISED(np.array([r.shaped_reward for r in members]))
        out |= {r.key: float(a) for r, a in zip(members, values, strict=True)}
    return out


def binary(new, size, successes, wave=0, **changes):
    return new.group([1.0] * successes + [0.0] * (size - successes), wave=wave, **changes)


def passed(rules, group, given=None):
    """The rollouts that are trained on."""
    fates = rules.judge(group, given or advantages(group))
    assert fates.keys() == {r.key for r in group.rollouts}
    assert set(fates.values()) <= {"trained", *rules.fates} <= FATES.keys()
    return [r for r in group.rollouts if fates[r.key] == "trained"]


def kept(new, group, **changes):
    """(right, wrong) responses that stay."""
    rollouts = passed(make(**changes), group)
    return sum(r.reward > 0 for r in rollouts), sum(r.reward == 0 for r in rollouts)


@pytest.mark.parametrize(
    ("size", "successes", "right", "wrong"),
    [
        (5, 1, 1.7889, -0.4472), (5, 2, 1.0954, -0.7303), (5, 3, 0.7303, -1.0954), (5, 4, 0.4472, -1.7889),
        (20, 1, 4.2485, -0.2236), (20, 2, 2.9240, -0.3249), (20, 5, 1.6882, -0.5627), (20, 9, 1.0775, -0.8816),
        (20, 10, 0.9747, -0.9747), (20, 11, 0.8816, -1.0775), (20, 15, 0.5627, -1.6882),
    ],
)  # fmt: skip
def test_table_of_advantages(size, successes, right, wrong, new):
    values = sorted(advantages(binary(new, size, successes)).values())
    assert values[-1] == pytest.approx(right, abs=6e-5)
    assert values[0] == pytest.approx(wrong, abs=6e-5)


@pytest.mark.parametrize(
    ("successes", "wanted"), [(0, (0, 0)), (1, (1, 4)), (4, (4, 1)), (5, (0, 0))]
)
def test_regular_wave_drops_flat_groups_alone(successes, wanted, new):
    assert kept(new, binary(new, 5, successes)) == wanted


@pytest.mark.parametrize(
    ("successes", "released", "positive"),
    [
        (1, (1, 0), (1, 0)), (9, (9, 0), (9, 0)), (10, (0, 0), (0, 0)), (11, (0, 9), (0, 0)), (15, (0, 5), (0, 0)),
        (0, (0, 0), (0, 0)),
    ],
)  # fmt: skip
def test_second_wave_rules(successes, released, positive, new):
    group = binary(new, 20, successes, wave=1)
    assert kept(new, group, keep="released") == released
    assert kept(new, group, keep="positive") == positive


def test_waves_are_never_mixed(new):
    """The failed first wave neither stays nor moves the statistics of the second."""
    alone = binary(new, 20, 2, wave=1)
    both = new.merged(binary(new, 5, 0), alone)
    assert advantages(both)[alone.rollouts[0].key] == pytest.approx(2.9240, abs=1e-4)
    assert passed(make(), both) == passed(make(), alone) != []


def test_overlong_drops_right_answers_that_fill_the_limit(new):
    group = new.group([1.0, 1.0, 0.0, 0.0])
    cut = tuple(
        replace(r, finish_reason="length") if r.key.sample % 2 else r for r in group.rollouts
    )
    group = replace(group, rollouts=cut)
    assert [r.key.sample for r in passed(make(), group)] == [0, 2, 3]
    assert [r.key.sample for r in passed(make(overlong_filter=False), group)] == [0, 1, 2, 3]


def test_threshold_zero_is_zero_advantage_filtering(new):
    rules = make(keep_regular=0.0, overlong_filter=False)
    flat = DropFlat(name="drop_flat", on="reward")
    for successes in range(9):
        group = binary(new, 8, successes)
        assert rules.judge(group, advantages(group)) == flat.judge(group, {})
    third = new.group([0.1] * 3)  # the mean of three 0.1 is not 0.1: rounding must not keep them
    rounding = {r.key: 1.4e-11 for r in third.rollouts}
    assert passed(rules, third, rounding) == []


def test_with_shaped_rewards_the_verdict_is_on_the_task_rewards(new):
    """OGER's bonus ranks an all-right group; the rules still see no difference in it. The teacher has its own A."""
    group = new.group([1.0, 1.0, 1.0])
    bonus = [replace(r, shaped_reward=1.0 + 0.1 * r.key.sample) for r in group.rollouts]
    shaped = replace(group, rollouts=tuple(bonus))
    assert passed(make(), shaped) == []
    teacher = replace(new.rollout(sample=3, reward=1.0), origin="teacher:t")
    failed = new.group([0.0, 0.0, 0.0])
    hybrid = replace(failed, rollouts=(failed.rollouts[0], teacher, *failed.rollouts[1:]))
    assert passed(make(), hybrid) == [teacher]


@pytest.mark.parametrize(
    ("wave", "rewards", "changes", "fate"),
    [
        pytest.param(0, [1, 0, 0, 0], {}, "trained", id="right, A = 1.5"),
        pytest.param(0, [1, 1, 1, 1], {}, "flat", id="all right"),
        pytest.param(0, [1], {}, "single", id="one response"),
        pytest.param(0, [0.5, 0, 1], {}, "below_threshold", id="A = 0 in a group that differs"),
        pytest.param(1, [1, 1, 0, 0], {}, "below_threshold", id="A = 0.87 in a later wave"),
        pytest.param(1, [0, 1, 1, 1], {}, "wrong_sign", id="A = -1.5 in a later wave"),
        pytest.param(0, [0, 1, 1, 1], {}, "trained", id="A = -1.5 in the first wave"),
        pytest.param(0, [1, 0, 0, 0], {"finish_reason": "length"}, "overlong", id="cut, A > 0"),
        pytest.param(0, [0, 1, 1, 1], {"finish_reason": "length"}, "trained", id="cut, A < 0"),
        pytest.param(0, [0, 1, 1, 1], {"tokens": ()}, "no_response", id="empty"),
    ],
)
def test_why_the_first_rollout_is_dropped(wave, rewards, changes, fate, new):
    group = new.group([float(reward) for reward in rewards], wave=wave, **changes)
    assert make().judge(group, advantages(group))[group.rollouts[0].key] == fate


def test_a_flat_wave_is_flat_with_a_teacher_in_it(new):
    """The teacher is right where all others are wrong: they are no better than each other."""
    group = new.group([0.0, 0.0, 0.0])
    teacher = replace(new.rollout(sample=3, reward=1.0), origin="teacher:t")
    hybrid = replace(group, rollouts=(*group.rollouts, teacher))
    assert list(make().judge(hybrid, advantages(hybrid)).values()) == ["flat"] * 3 + ["trained"]


def test_counts_by_class(new):
    group = new.merged(binary(new, 5, 1), binary(new, 20, 2, wave=1))
    assert keep_metrics(advantages(group)) == {
        "uec/kept_regular_positive": 1.0,
        "uec/kept_regular_negative": 4.0,
        "uec/kept_explore_positive": 2.0,
        "uec/kept_explore_negative": 18.0,
    }
