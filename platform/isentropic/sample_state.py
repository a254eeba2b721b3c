"""Samples as plain arrays and JSON values, for checkpoints: no pickle, equal bits when read."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isentropic.columns import COLUMNS, cut, join
from isentropic.records import Prompt, Rollout, RolloutKey, Sample, Segment, TokenScores

REFERENCE = "old.ref_logprob"  # the one column that a sample may lack
PATHS = [column.path for column in COLUMNS.values() if not column.single]


def samples_to_state(samples: Sequence[Sample]) -> dict[str, Any]:
    """Write samples as a JSON list under `about`, one entry each, and arrays laid end to end.

    Prompts keep their media as references: pixels are never stored.
    """
    state: dict[str, Any] = {"about": [_about(sample) for sample in samples]}
    state["rewards"] = np.array(
        [(sample.rollout.reward, sample.rollout.shaped_reward) for sample in samples],
        dtype=np.float64,
    ).reshape(-1, 2)
    token_ids = [sample.rollout.token_ids for sample in samples]
    state["num_tokens"] = np.array([len(ids) for ids in token_ids], dtype=np.int64)
    state["num_response"] = np.array([len(sample.advantage) for sample in samples], dtype=np.int64)
    state["token_ids"] = join(token_ids, np.int64)
    for path in PATHS:
        values = [_column(sample, path) for sample in samples]
        state[_key(path)] = join([value for value in values if value is not None])
    return state


def samples_from_state(state: dict[str, Any]) -> list[Sample]:
    """Read the samples that `samples_to_state` was given."""
    token_ids = cut(state["token_ids"], state["num_tokens"])
    parts = {path: _parts(state, path) for path in PATHS}
    samples = []
    for row, about in enumerate(state["about"]):
        reward, shaped_reward = map(float, state["rewards"][row])
        arrays: dict[str, dict[str, NDArray | None]] = {"": {}, "rollout": {}, "old": {}}
        for path, values in parts.items():
            owner, _, attribute = path.rpartition(".")
            arrays[owner][attribute] = values[row]
        rollout = Rollout(
            key=RolloutKey(*about["key"]),
            prompt=_prompt(about["prompt"]),
            token_ids=token_ids[row],
            turns=tuple((start, end) for start, end in about["turns"]),
            # Checkpoints of earlier versions have none.
            segments=tuple(Segment(*values) for values in about.get("segments", ())),
            reward=reward,
            shaped_reward=shaped_reward,
            **arrays["rollout"],
            **about["rollout"],
        )
        old = TokenScores(**arrays["old"])
        samples.append(Sample(rollout=rollout, old=old, source=about["source"], **arrays[""]))
    return samples


def _key(path: str) -> str:
    """Where a column stands in the state: old.logprob as old/logprob, the rollout's by its name."""
    return path.removeprefix("rollout.").replace(".", "/")


def _column(sample: Sample, path: str) -> NDArray | None:
    """Read a column; one that nobody computed is NaN, but for reference scores."""
    values = attrgetter(path)(sample)
    if values is None and path != REFERENCE:
        return np.full(len(sample.advantage), np.nan, dtype=np.float32)
    return values


def _parts(state: dict[str, Any], path: str) -> list[NDArray | None]:
    """Cut a column by sample; None for one without reference scores."""
    entries, lengths = state["about"], state["num_response"]
    if _key(path) not in state:  # a column that came after the checkpoint
        return [np.full(length, np.nan, dtype=np.float32) for length in lengths]
    has = [path != REFERENCE or entry["has_reference"] for entry in entries]
    parts = iter(
        cut(state[_key(path)], [n for n, there in zip(lengths, has, strict=True) if there])
    )
    return [next(parts) if there else None for there in has]


def _about(sample: Sample) -> dict[str, Any]:
    rollout, prompt = sample.rollout, sample.rollout.prompt
    names = (
        "temperature",
        "seed",
        "finish_reason",
        "step",
        "policy_version",
        "source_step",
        "origin",
    )
    return {
        "key": list(rollout.key),
        "prompt": {
            "prompt_id": prompt.prompt_id,
            "messages": [dict(message) for message in prompt.messages],
            "answer": prompt.answer,
            "media": list(prompt.media),
            "metadata": prompt.metadata,
            "reward_right": prompt.reward_right,
        },
        "turns": [list(map(int, turn)) for turn in rollout.turns],
        "segments": [list(map(int, segment)) for segment in rollout.segments],
        "rollout": {name: getattr(rollout, name) for name in names},
        "has_reference": sample.old.ref_logprob is not None,
        "source": sample.source,
    }


def _prompt(values: dict[str, Any]) -> Prompt:
    return Prompt(
        prompt_id=values["prompt_id"],
        messages=tuple(values["messages"]),
        answer=values["answer"],
        media=tuple(values["media"]),
        metadata=values.get("metadata", ""),  # states of earlier versions have none
        reward_right=values.get("reward_right", 1.0),  # same: 1 was right in them
    )
