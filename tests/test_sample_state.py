"""Samples go into a checkpoint as arrays and JSON, and come back equal."""

import io
import json
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest

from isentropic.records import Prompt, Rollout, RolloutKey, Sample, Segment, TokenScores
from isentropic.sample_state import samples_from_state, samples_to_state


def sample(seed: int, tokens: int, *, ref: bool, source="new") -> Sample:
    rng = np.random.default_rng(seed)

    def numbers():
        return rng.normal(size=tokens).astype(np.float32)

    prompt = Prompt(
        prompt_id=f"p{seed}",
        messages=({"role": "user", "content": "é"},),
        answer="2",
        media=("a.png",),
        metadata="{'n': 1}",
        reward_right=5.0,
    )
    rollout = Rollout(
        key=RolloutKey("train", seed, 1, 2), prompt=prompt, token_ids=rng.integers(9, size=tokens + 3),
        turns=((2, 2 + tokens - 1), (tokens + 2, tokens + 3)), rollout_logprob=np.full(tokens, np.nan, np.float32),
        temperature=1.2, seed=1 << 61, finish_reason="length", step=4, policy_version=9, origin="teacher:t",
        reward=1.0, shaped_reward=float("nan"),
        segments=(Segment(0, 3, 2, 7, 1 << 60), Segment(tokens - 1, 4, 3, 9, 5)),
    )  # fmt: skip
    old = TokenScores(
        logprob=numbers(), entropy=numbers(), sensitivity=numbers(), sum_p2=numbers(),
        sum_s2=numbers(),
        ref_logprob=numbers() if ref else None,
    )  # fmt: skip
    return Sample(
        rollout=rollout, old=old, advantage=numbers(), token_weight=numbers(), source=source
    )


def assert_equal(left, right):
    if is_dataclass(left):
        assert type(left) is type(right)
        for field in fields(left):
            assert_equal(getattr(left, field.name), getattr(right, field.name))
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    elif isinstance(left, float) and np.isnan(left):
        assert np.isnan(right)
    else:
        assert left == right
        assert type(left) is type(right)


def through_files(state):
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    np.savez(buffer := io.BytesIO(), **arrays)
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as loaded:
        return {
            **{name: loaded[name] for name in loaded.files},
            "about": json.loads(json.dumps(state["about"])),
        }


@pytest.mark.parametrize(
    "references", [(True, True, True), (False, False, False), (False, True, False)]
)
def test_the_way_there_and_back_is_exact(references):
    before = [
        sample(seed, 2 + seed, ref=ref, source="queue") for seed, ref in enumerate(references)
    ]
    after = samples_from_state(through_files(samples_to_state(before)))
    assert len(after) == 3
    for left, right in zip(before, after, strict=True):
        assert_equal(left, right)


def test_a_column_that_came_after_the_checkpoint_is_nan():
    """An old queue goes on: what needs the column says NaN, all else is as it was."""
    before = [sample(seed, 2 + seed, ref=False) for seed in range(2)]
    state = through_files(samples_to_state(before))
    del state["old/sum_s2"]
    for left, right in zip(before, samples_from_state(state), strict=True):
        assert np.isnan(right.old.sum_s2).all() and len(right.old.sum_s2) == len(left.advantage)
        assert_equal(replace(left.old, sum_s2=None), replace(right.old, sum_s2=None))
    unknown = [replace(one, old=replace(one.old, sum_s2=None)) for one in before]
    for one in samples_from_state(through_files(samples_to_state(unknown))):
        assert np.isnan(one.old.sum_s2).all()


def test_samples_of_earlier_versions_have_no_segments():
    before = [sample(0, 3, ref=False)]
    state = through_files(samples_to_state(before))
    del state["about"][0]["segments"]
    (after,) = samples_from_state(state)
    assert_equal(after.rollout, replace(before[0].rollout, segments=()))


def test_nothing_is_something_too():
    assert samples_from_state(through_files(samples_to_state([]))) == []
