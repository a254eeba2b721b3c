"""Token weights against the mismatch of engine and learner: pi_old / pi_rollout, at equal weights.

The ratio is a constant of the loss (no gradient), and a mask does not change the denominator of the
loss. Tokens that no engine sampled (rollout_logprob not a number: teachers) have ratio 1.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from isentropic.checks import check_choice, check_range
from isentropic.objectives.loss.ratio import sequence_mean, sequence_sum
from isentropic.objectives.loss.token_loss import bounded_exp


class TokenWeight(NamedTuple):
    """Weights and their metrics."""

    weight: Tensor  # [N] >= 0, times the policy loss
    metrics: dict[str, Tensor]  # [N] each; their means over the tokens are logged


def log_mismatch(old_logprob: Tensor, rollout_logprob: Tensor) -> Tensor:
    """[N] old_logprob - rollout_logprob in nats; 0 where no engine sampled the token."""
    return torch.nan_to_num(old_logprob - rollout_logprob, nan=0.0)


@dataclass(frozen=True, kw_only=True)
class NoTokenWeight:
    """Every token weighs 1."""

    name: str

    def weigh(
        self, old_logprob: Tensor, rollout_logprob: Tensor, sequence_id: Tensor
    ) -> TokenWeight:
        return TokenWeight(torch.ones_like(old_logprob), {})


@dataclass(frozen=True, kw_only=True)
class TruncatedWeight:
    """Truncated importance sampling (TIS): w = min(ratio, cap), of the token or of the sequence.

    The sequence's ratio is the product of its tokens'; log weights are summed, then clamped to
    +-20.
    """

    name: str
    level: str  # token | sequence
    cap: float

    def __post_init__(self) -> None:
        check_choice("token_weight.level", self.level, ("token", "sequence"))
        check_range("token_weight.cap", self.cap, above=0)

    def weigh(
        self, old_logprob: Tensor, rollout_logprob: Tensor, sequence_id: Tensor
    ) -> TokenWeight:
        """[N] weights from [N] logprobs in nats and int64 sequence ids."""
        ratio = _ratio(log_mismatch(old_logprob, rollout_logprob), sequence_id, self.level)
        return _result(ratio.clamp(max=self.cap), ratio, ratio > self.cap)


@dataclass(frozen=True, kw_only=True)
class MaskedWeight:
    """A ratio outside [low, high] weighs 0; inside itself (IcePop, keep_ratio) or 1 (masks).

    level: `token`, `sequence` (product over the tokens, clamped to e^+-20), or `geometric` (their
    geometric mean).
    """

    name: str
    level: str  # token | sequence | geometric
    low: float
    high: float
    keep_ratio: bool  # inside: the ratio itself instead of 1

    def __post_init__(self) -> None:
        check_choice("token_weight.level", self.level, ("token", "sequence", "geometric"))
        check_range("token_weight.low", self.low, at_least=0, at_most=1)
        check_range("token_weight.high", self.high, at_least=1)

    def weigh(
        self, old_logprob: Tensor, rollout_logprob: Tensor, sequence_id: Tensor
    ) -> TokenWeight:
        """[N] weights from [N] logprobs in nats and int64 sequence ids."""
        ratio = _ratio(log_mismatch(old_logprob, rollout_logprob), sequence_id, self.level)
        outside = (ratio < self.low) | (ratio > self.high)
        inside = ratio if self.keep_ratio else torch.ones_like(ratio)
        return _result(inside.masked_fill(outside, 0.0), ratio, outside)


TOKEN_WEIGHTS: dict[str, type] = {
    "none": NoTokenWeight,
    "truncated": TruncatedWeight,
    "masked": MaskedWeight,
}


def _ratio(log_ratio: Tensor, sequence_id: Tensor, level: str) -> Tensor:
    """[N] the ratio of the level, at each token."""
    if level == "sequence":
        log_ratio = sequence_sum(log_ratio, sequence_id)[sequence_id]
    elif level == "geometric":
        log_ratio = sequence_mean(log_ratio, sequence_id)[sequence_id]
    return bounded_exp(log_ratio)


def _result(weight: Tensor, ratio: Tensor, outside: Tensor) -> TokenWeight:
    metrics = {
        "mismatch/weight": weight,
        "mismatch/ratio": ratio,
        "mismatch/corrected_frac": outside.to(weight.dtype),
    }
    return TokenWeight(weight, metrics)
