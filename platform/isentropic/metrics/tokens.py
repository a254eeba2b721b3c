"""The token table: every number the metrics need, one row a response token, in canonical order.

The learner returns `logprob` and `entropy` per update; the controller has the rest. What is computed from the
table cannot depend on packing, microbatches or ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from isentropic.records import Sample

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTable:
    """[N] float64 each, but for the integer and boolean columns. Tokens of a response stand together, in order."""

    logprob: Array  # nats, under the weights of this update
    old_logprob: Array  # nats, under the weights the step began with
    rollout_logprob: Array  # nats, as the engine sampled; NaN for teachers
    advantage: Array  # reward units
    old_entropy: Array  # nats, under the old weights
    entropy: Array  # nats, under the weights of this update
    sensitivity: Array  # S of specs/ce_gppo.md 5.2, under the old weights
    sum_p2: Array  # sum over the vocabulary of p^2, under the old weights
    loss_weight: Array  # share of the update's loss; 1 / N under token_mean
    token_weight: Array  # correction of the engine's mismatch; 1 where none
    sequence_id: NDArray[np.int64]  # 0, 1, ...: which response
    position: NDArray[np.int64]  # index inside the response
    response_length: NDArray[np.int64]  # tokens of that response
    reward: Array  # of the task, repeated over the response
    is_teacher: Mask
    temperature: Array
    ref_logprob: Array | None = None  # nats, under the reference model, where one was asked

    def __post_init__(self) -> None:
        lengths = {
            field.name: len(getattr(self, field.name))
            for field in fields(self)
            if self._has(field.name)
        }
        assert len(set(lengths.values())) == 1, f"columns of one table differ in length: {lengths}"

    def _has(self, name: str) -> bool:
        return getattr(self, name) is not None

    def __len__(self) -> int:
        return len(self.logprob)

    @property
    def log_ratio(self) -> Array:
        """[N] logprob - old_logprob, nats."""
        return self.logprob - self.old_logprob

    @property
    def weight(self) -> Array:
        """[N] what multiplies a token's loss in the update: loss_weight * token_weight."""
        return self.loss_weight * self.token_weight

    def rows(self, which: Mask | NDArray[np.int64]) -> "TokenTable":
        """The rows of `which`, a mask or indices, in that order."""
        columns = {
            field.name: getattr(self, field.name)[which]
            for field in fields(self)
            if self._has(field.name)
        }
        return replace(self, **columns)


def token_table(
    samples: Sequence[Sample], *, loss_weight: Array, logprob: Array, entropy: Array
) -> TokenTable:
    """The table of one update.

    Args:
        samples: what the update was trained on, in canonical order.
        loss_weight, logprob, entropy: [N] over the response tokens of `samples`, end to end; the last two as the
            learner returned them.
    """
    lengths = np.array([sample.rollout.num_response_tokens for sample in samples], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    total = int(lengths.sum())

    def tokens(parts: Sequence[NDArray]) -> Array:
        return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)

    def repeated(values: Sequence[float], dtype: type = np.float64) -> NDArray:
        return np.repeat(np.array(values, dtype=dtype), lengths)

    has_reference = bool(samples) and all(sample.old.ref_logprob is not None for sample in samples)
    return TokenTable(
        logprob=np.asarray(logprob, dtype=np.float64),
        old_logprob=tokens([sample.old.logprob for sample in samples]),
        rollout_logprob=tokens([sample.rollout.rollout_logprob for sample in samples]),
        advantage=tokens([sample.advantage for sample in samples]),
        old_entropy=tokens([sample.old.entropy for sample in samples]),
        entropy=np.asarray(entropy, dtype=np.float64),
        sensitivity=tokens([sample.old.sensitivity for sample in samples]),
        sum_p2=tokens([sample.old.sum_p2 for sample in samples]),
        loss_weight=np.asarray(loss_weight, dtype=np.float64),
        token_weight=tokens([sample.token_weight for sample in samples]),
        sequence_id=repeated(range(len(samples)), np.int64),
        position=np.arange(total) - np.repeat(starts, lengths),
        response_length=np.repeat(lengths, lengths),
        reward=repeated([sample.rollout.reward for sample in samples]),
        is_teacher=repeated([sample.rollout.is_teacher for sample in samples], bool),
        temperature=repeated([sample.rollout.temperature for sample in samples]),
        ref_logprob=tokens([sample.old.ref_logprob for sample in samples])
        if has_reference
        else None,
    )
