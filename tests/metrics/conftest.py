"""Short real records for the tests of the metrics."""

import numpy as np
import pytest

from isentropic.records import Group, Prompt, Rollout, RolloutKey, Sample, TokenScores


def make_rollout(draw=0, sample=0, *, reward=1.0, tokens=4, wave=0, logprob=-0.5, **changes):
    """A prompt of two tokens, then `tokens` response tokens."""
    values = {
        "key": RolloutKey("train", draw, wave, sample),
        "prompt": Prompt(
            prompt_id=f"p{draw}", messages=({"role": "user", "content": "1+1="},), answer="2"
        ),
        "token_ids": np.arange(2 + tokens),
        "turns": ((2, 2 + tokens),),
        "rollout_logprob": np.full(tokens, logprob, dtype=np.float32),
        "temperature": 1.0,
        "seed": 0,
        "finish_reason": "stop",
        "step": 1,
        "policy_version": 0,
        "reward": reward,
    }
    return Rollout(**(values | changes))


def make_scores(entropy, logprob=-0.5, ref_logprob=None):
    entropy = np.array(entropy, dtype=np.float32)
    ones = np.ones(len(entropy), dtype=np.float32)
    return TokenScores(
        logprob=logprob * ones,
        entropy=entropy,
        sensitivity=0.25 * ones,
        sum_p2=0.5 * ones,
        ref_logprob=None if ref_logprob is None else ref_logprob * ones,
    )


def make_sample(rollout, *, advantage=1.0, entropy=1.0, source="new"):
    count = rollout.num_response_tokens
    return Sample(
        rollout=rollout,
        old=make_scores([entropy] * count),
        advantage=np.full(count, advantage, dtype=np.float32),
        token_weight=np.ones(count, dtype=np.float32),
        source=source,
    )


class Make:
    rollout = staticmethod(make_rollout)
    scores = staticmethod(make_scores)
    sample = staticmethod(make_sample)

    @staticmethod
    def group(draw, rewards):
        rollouts = tuple(make_rollout(draw, i, reward=reward) for i, reward in enumerate(rewards))
        return Group(draw=draw, prompt=rollouts[0].prompt, rollouts=rollouts)


@pytest.fixture
def make():
    """Makers of rollouts, scores, samples and groups."""
    return Make
