"""The fate that a filter gives to each rollout of a group."""

import numpy as np
import pytest

from isentropic.methods.fates import FATES
from isentropic.methods.filters import DropFlat, KeepAll
from isentropic.records import Group, Prompt, Rollout, RolloutKey

PROMPT = Prompt(prompt_id="p", messages=(), answer="1")


def rollout(wave, sample, reward, shaped=None, tokens=2):
    return Rollout(
        key=RolloutKey("train", 5, wave, sample),
        prompt=PROMPT,
        token_ids=np.arange(3 + tokens),
        turns=((3, 3 + tokens),) if tokens else (),
        rollout_logprob=np.zeros(tokens, dtype=np.float32),
        temperature=1.0,
        seed=0,
        finish_reason="stop",
        step=1,
        policy_version=0,
        reward=reward,
        shaped_reward=reward if shaped is None else shaped,
    )


def fates(slot, *rollouts):
    verdicts = slot.judge(Group(draw=5, prompt=PROMPT, rollouts=rollouts), {})
    assert verdicts.keys() == {r.key for r in rollouts}
    assert set(verdicts.values()) <= {"trained", *slot.fates} <= FATES.keys()
    return {(key.wave, key.sample): fate for key, fate in verdicts.items()}


def kept(slot, *rollouts):
    return [place for place, fate in fates(slot, *rollouts).items() if fate == "trained"]


FLAT, FLAT_SHAPED = (DropFlat(name="drop_flat", on=on) for on in ("reward", "shaped_reward"))
ALL = KeepAll(name="keep_all")


def test_flat_groups_are_dropped():
    assert kept(FLAT, rollout(0, 0, 1.0), rollout(0, 1, 1.0)) == []
    assert kept(FLAT, rollout(0, 0, 1.0), rollout(0, 1, 0.0)) == [(0, 0), (0, 1)]
    assert kept(ALL, rollout(0, 0, 1.0), rollout(0, 1, 1.0)) == [(0, 0), (0, 1)]


def test_each_wave_is_judged_alone():
    rollouts = [rollout(0, 0, 0.0), rollout(0, 1, 0.0), rollout(1, 0, 0.0), rollout(1, 1, 1.0)]
    assert kept(FLAT, *rollouts) == [(1, 0), (1, 1)]


def test_on_which_reward():
    rollouts = [rollout(0, 0, 1.0, shaped=0.5), rollout(0, 1, 1.0, shaped=1.0)]
    assert kept(FLAT, *rollouts) == []
    assert kept(FLAT_SHAPED, *rollouts) == [(0, 0), (0, 1)]


@pytest.mark.parametrize("config", [FLAT, ALL])
def test_what_can_have_no_advantage(config):
    assert kept(config, rollout(0, 0, 1.0)) == []
    assert kept(config, rollout(0, 0, 1.0), rollout(0, 1, 0.0, tokens=0), rollout(0, 2, 0.0)) == [
        (0, 0),
        (0, 2),
    ]


def test_why_a_rollout_is_dropped():
    """Wave 0 is flat, wave 1 mixed with a response that is empty, wave 2 has one member."""
    rollouts = [
        rollout(0, 0, 1.0),
        rollout(0, 1, 1.0, tokens=0),
        rollout(1, 0, 1.0),
        rollout(1, 1, 0.0, tokens=0),
        rollout(2, 0, 1.0),
    ]
    expected = {
        (0, 0): "flat",
        (0, 1): "flat",
        (1, 0): "trained",
        (1, 1): "no_response",
        (2, 0): "single",
    }
    assert fates(FLAT, *rollouts) == expected
    assert fates(ALL, *rollouts) == expected | {(0, 0): "trained", (0, 1): "no_response"}


def test_config_refuses():
    with pytest.raises(
        ValueError, match=r"filter.on must be one of reward, shaped_reward; got 'rewards'"
    ):
        DropFlat(name="drop_flat", on="rewards")
