"""Builders of short rollouts, groups and samples."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from isentropic.records import POLICY, Group, Prompt, Rollout, RolloutKey, Sample, TokenScores

PROMPT = Prompt(prompt_id="p", messages=({"role": "user", "content": "1+1="},), answer="2")


def rollout(draw=0, sample=0, wave=0, reward=0.0, tokens=(5, 6), step=1, **changes) -> Rollout:
    """Two prompt tokens, then `tokens`."""
    fields = {
        "key": RolloutKey("train", draw, wave, sample),
        "prompt": PROMPT,
        "token_ids": np.array([1, 2, *tokens], dtype=np.int64),
        "turns": ((2, 2 + len(tokens)),),
        "rollout_logprob": np.full(len(tokens), -0.5, dtype=np.float32),
        "temperature": 1.0,
        "seed": 7,
        "finish_reason": "stop",
        "step": step,
        "policy_version": 3,
        "origin": POLICY,
        "reward": reward,
        "shaped_reward": reward,
    }
    return Rollout(**(fields | changes))


def group(rewards, draw=0, wave=0, **changes) -> Group:
    """One wave of one group."""
    rollouts = tuple(
        rollout(draw, index, wave, reward, **changes) for index, reward in enumerate(rewards)
    )
    return Group(draw=draw, prompt=PROMPT, rollouts=rollouts)


def merged(first: Group, second: Group) -> Group:
    return replace(first, rollouts=(*first.rollouts, *second.rollouts))


def scores(
    n: int, *, entropy=0.5, logprob=-0.5, sensitivity=0.1, ref=None, dtype=np.float32
) -> TokenScores:
    def full(value):
        return np.broadcast_to(np.asarray(value, dtype=dtype), (n,)).copy()

    return TokenScores(
        logprob=full(logprob),
        entropy=full(entropy),
        sensitivity=full(sensitivity),
        sum_p2=full(0.25),
        ref_logprob=None if ref is None else full(ref),
    )


def sample(
    of: Rollout | None = None, advantage=1.0, sensitivity=0.1, ref=None, dtype=np.float32
) -> Sample:
    """`advantage` and `sensitivity` are numbers or [N]."""
    of = of if of is not None else rollout(tokens=(5,) * np.size(advantage))
    n = of.num_response_tokens
    return Sample(
        rollout=of,
        old=scores(n, sensitivity=sensitivity, ref=ref, dtype=dtype),
        advantage=np.broadcast_to(np.asarray(advantage, dtype=dtype), (n,)).copy(),
        token_weight=np.ones(n, dtype=dtype),
    )


@pytest.fixture(scope="session")
def new() -> SimpleNamespace:
    return SimpleNamespace(
        rollout=rollout, group=group, merged=merged, scores=scores, sample=sample, prompt=PROMPT
    )
