"""Which rollouts of a group are kept."""

import numpy as np
import pytest

from isentropic.methods.filters import DropFlatConfig, KeepAllConfig
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


def kept(config, *rollouts):
    group = Group(draw=5, prompt=PROMPT, rollouts=rollouts)
    return [(r.key.wave, r.key.sample) for r in config.build().keep(group, {})]


FLAT, FLAT_SHAPED = (DropFlatConfig(name="drop_flat", on=on) for on in ("reward", "shaped_reward"))
ALL = KeepAllConfig(name="keep_all")


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


def test_canonical_order():
    rollouts = [rollout(1, 1, 0.0), rollout(0, 1, 0.0), rollout(1, 0, 1.0), rollout(0, 0, 1.0)]
    assert kept(FLAT, *rollouts) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_config_refuses():
    with pytest.raises(
        ValueError, match=r"filter.on must be one of reward, shaped_reward; got 'rewards'"
    ):
        DropFlatConfig(name="drop_flat", on="rewards")
