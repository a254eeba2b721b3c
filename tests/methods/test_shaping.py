"""Shaped rewards; the task's own stays."""

from dataclasses import replace

import numpy as np
import pytest

from isentropic.methods.shaping import NoShaping, Overlong
from isentropic.records import Group, Prompt, Rollout, RolloutKey

PROMPT = Prompt(prompt_id="p", messages=(), answer="1")
OVERLONG = {"name": "overlong", "max_response_tokens": 100, "buffer_share": 0.2, "factor": 0.5}


def group(*lengths):
    return Group(
        draw=0,
        prompt=PROMPT,
        rollouts=tuple(
            Rollout(
                key=RolloutKey("train", 0, 0, sample),
                prompt=PROMPT,
                token_ids=np.arange(2 + length),
                turns=((2, 2 + length),),
                rollout_logprob=np.zeros(length, dtype=np.float32),
                temperature=1.0,
                seed=0,
                finish_reason="stop",
                step=1,
                policy_version=0,
                reward=1.0,
            )
            for sample, length in enumerate(lengths)
        ),
    )


def test_none_copies_the_task_reward():
    shaped, metrics = NoShaping(name="none").build().shape([group(3, 4)], {})
    assert [(r.reward, r.shaped_reward) for r in shaped[0].rollouts] == [
        (1.0, 1.0)
    ] * 2 and metrics == {}


def test_overlong_penalty_grows_over_the_buffer_and_stays_there():
    """Limit 100, buffer 20, factor 0.5: 0 up to 80 tokens, -0.25 at 90, -0.5 from 100 on."""
    shaped, metrics = Overlong(**OVERLONG).build().shape([group(10, 80, 90), group(100, 140)], {})
    rewards = [r.shaped_reward for g in shaped for r in g.rollouts]
    assert rewards == pytest.approx([1.0, 1.0, 0.75, 0.5, 0.5])
    assert {r.reward for g in shaped for r in g.rollouts} == {1.0}
    assert metrics == {
        "overlong/penalty_mean": pytest.approx(-0.25),
        "overlong/penalised_frac": 0.6,
    }


def test_the_limit_is_that_of_a_turn():
    """Two turns of 8 under a limit of 12 fill no turn; one of 8 and one of 12 fills its last."""
    (first, second) = group(16, 20).rollouts
    first = replace(first, turns=((2, 10), (10, 18)))
    second = replace(second, turns=((2, 10), (10, 22)))
    episode = Group(draw=0, prompt=PROMPT, rollouts=(first, second))
    shaping = Overlong(**OVERLONG | {"max_response_tokens": 12, "factor": 1.0})
    (shaped,), _ = shaping.build().shape([episode], {})
    assert [r.shaped_reward - r.reward for r in shaped.rollouts] == [0.0, -1.0]


def test_no_groups():
    shaped, metrics = Overlong(**OVERLONG).build().shape([], {})
    assert shaped == [] and metrics["overlong/penalised_frac"] == 0


def test_config_refuses():
    with pytest.raises(ValueError, match=r"shaping.buffer_share must be > 0 and <= 1, got 4096"):
        Overlong(**OVERLONG | {"buffer_share": 4096})
