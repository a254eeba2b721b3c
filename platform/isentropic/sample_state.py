"""Samples as plain arrays and JSON values, for checkpoints: no pickle, equal bits after the way back."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from isentropic.records import Prompt, Rollout, RolloutKey, Sample, TokenScores

SCORES = ("logprob", "entropy", "sensitivity", "sum_p2")


def samples_to_state(samples: Sequence[Sample]) -> dict[str, Any]:
    """`about` is a JSON list, one entry a sample; all else are arrays, those of the samples end to end.

    Prompts keep their media as references: pixels are never stored.
    """
    state: dict[str, Any] = {"about": [_about(sample) for sample in samples]}
    state["rewards"] = np.array(
        [(sample.rollout.reward, sample.rollout.shaped_reward) for sample in samples],
        dtype=np.float64,
    ).reshape(-1, 2)
    state["num_tokens"] = np.array(
        [len(sample.rollout.token_ids) for sample in samples], dtype=np.int64
    )
    state["num_response"] = np.array([len(sample.advantage) for sample in samples], dtype=np.int64)
    state["token_ids"] = _joined(samples, lambda sample: sample.rollout.token_ids, np.int64)
    state["rollout_logprob"] = _joined(samples, lambda sample: sample.rollout.rollout_logprob)
    state["advantage"] = _joined(samples, lambda sample: sample.advantage)
    state["token_weight"] = _joined(samples, lambda sample: sample.token_weight)
    for name in SCORES:
        state[f"old/{name}"] = _joined(samples, lambda sample, name=name: getattr(sample.old, name))
    with_reference = [sample for sample in samples if sample.old.ref_logprob is not None]
    state["old/ref_logprob"] = _joined(with_reference, lambda sample: sample.old.ref_logprob)
    return state


def samples_from_state(state: dict[str, Any]) -> list[Sample]:
    """The samples that `samples_to_state` was given."""
    token_ids = _cut(state["token_ids"], state["num_tokens"])
    fields = {
        name: _cut(state[name], state["num_response"])
        for name in (
            "rollout_logprob",
            "advantage",
            "token_weight",
            *(f"old/{score}" for score in SCORES),
        )
    }
    referenced = np.array([about["has_reference"] for about in state["about"]], dtype=bool)
    references = iter(_cut(state["old/ref_logprob"], np.asarray(state["num_response"])[referenced]))
    samples = []
    for row, about in enumerate(state["about"]):
        reward, shaped_reward = map(float, state["rewards"][row])
        parts = {name: values[row] for name, values in fields.items()}
        rollout = Rollout(
            key=RolloutKey(*about["key"]),
            prompt=_prompt(about["prompt"]),
            token_ids=token_ids[row],
            turns=tuple((start, end) for start, end in about["turns"]),
            rollout_logprob=parts["rollout_logprob"],
            reward=reward,
            shaped_reward=shaped_reward,
            **about["rollout"],
        )
        scores = {name: parts[f"old/{name}"] for name in SCORES}
        old = TokenScores(
            **scores, ref_logprob=next(references) if about["has_reference"] else None
        )
        samples.append(
            Sample(
                rollout=rollout,
                old=old,
                advantage=parts["advantage"],
                token_weight=parts["token_weight"],
                source=about["source"],
            )
        )
    return samples


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
        },
        "turns": [list(map(int, turn)) for turn in rollout.turns],
        "rollout": {name: getattr(rollout, name) for name in names},
        "has_reference": sample.old.ref_logprob is not None,
        "source": sample.source,
    }


def _prompt(about: dict[str, Any]) -> Prompt:
    return Prompt(
        prompt_id=about["prompt_id"],
        messages=tuple(about["messages"]),
        answer=about["answer"],
        media=tuple(about["media"]),
        metadata=about.get("metadata", ""),  # states of earlier versions have none
    )


def _joined(
    samples: Sequence[Sample], pick: Callable[[Sample], np.ndarray], empty=np.float32
) -> np.ndarray:
    return (
        np.concatenate([pick(sample) for sample in samples])
        if samples
        else np.zeros(0, dtype=empty)
    )


def _cut(values: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(values, np.cumsum(lengths)[:-1]) if len(lengths) else []
