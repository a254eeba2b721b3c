"""How many prompts are drawn, given what came back."""

import dataclasses

import numpy as np
import pytest

from isentropic.methods.sampling import OneWave, Refilled
from isentropic.records import Group, Prompt, Rollout, RolloutKey

PROMPT = Prompt(prompt_id="p", messages=(), answer="1")
DRAW = {"prompts_per_step": 4, "group_size": 2, "temperature": 0.8, "top_p": 0.9, "top_k": 7}


def groups(*rewards):
    """One group a pair of rewards."""
    return [
        Group(
            draw=draw,
            prompt=PROMPT,
            rollouts=tuple(rollout(draw, sample, r) for sample, r in enumerate(pair)),
        )
        for draw, pair in enumerate(rewards)
    ]


def rollout(draw, sample, reward):
    return Rollout(
        key=RolloutKey("train", draw, 0, sample),
        prompt=PROMPT,
        token_ids=np.arange(3),
        turns=((2, 3),),
        rollout_logprob=np.zeros(1, dtype=np.float32),
        temperature=0.8,
        seed=0,
        finish_reason="stop",
        step=1,
        policy_version=0,
        reward=reward,
    )


def test_one_wave_has_the_values_of_rollout():
    sampling = OneWave(name="one_wave", **DRAW)
    wave = dataclasses.asdict(sampling.next_wave([]))
    assert wave == {
        "new_prompts": 4,
        "draws": (),
        "group_size": 2,
        "temperature": 0.8,
        "top_p": 0.9,
        "top_k": 7,
    }
    assert sampling.next_wave(groups((0, 0))) is None and sampling.max_groups is None


def refilled(**changes):
    return Refilled(name="refilled", **DRAW | {"draw_prompts": 3, "max_draws": 3} | changes)


def test_refilled_draws_until_enough_groups_teach():
    sampling = refilled()
    right, wrong, mixed = (1, 1), (0, 0), (0, 1)
    assert sampling.next_wave([]).new_prompts == 3
    assert sampling.next_wave(groups(mixed, mixed, mixed)).new_prompts == 3
    assert sampling.next_wave(groups(mixed, mixed, mixed, right, wrong, right)).new_prompts == 3
    assert sampling.next_wave(groups(mixed, mixed, mixed, right, wrong, mixed)) is None
    assert sampling.max_groups == 4


def test_refilled_stops_at_its_bound():
    assert refilled().next_wave(groups(*[(0, 0)] * 9)) is None


def test_refilled_that_can_never_fill_is_refused():
    with pytest.raises(
        ValueError, match=r"draw_prompts=3 times sampling.max_draws=1 is less than .*=4"
    ):
        refilled(max_draws=1)
