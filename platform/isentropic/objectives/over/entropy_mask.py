"""Clip_B and Clip_V: any objective, without the tokens that would lower the entropy most."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from isentropic.checks import check_choice
from isentropic.objectives.clip import clip
from isentropic.objectives.covariance.covariance import picked
from isentropic.objectives.loss import TokenLoss, check_coefficient
from isentropic.objectives.over.base import OverConfig

# A smaller standard deviation drops nothing. In float32 that of equal tokens would be 1e-8, for the
# mean is rounded: mean and deviation are taken in float64.
FLAT = 1e-12


def clip_b(
    log_ratio: Tensor,
    advantage: Tensor,
    *,
    logprob: Tensor,
    entropy: Tensor,
    spread: float,
    denominator: str = "kept",
    base: Callable[..., TokenLoss] = clip,
    **base_inputs: Any,
) -> TokenLoss:
    """Drop punished tokens whose own term is far below the mean (Clip_B, arXiv:2602.03392).

        s_t = p_t (log p_t + H_t)                dropped: A_t < 0 and s_t - mean s < -spread * std s

    Both numbers are the trainer's, of the current policy. Tokens with A >= 0 are never touched.
    Mean and std (population) go over the tokens given: a whole minibatch.

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient.
        advantage: [N] in reward units, no gradient.
        logprob, entropy: [N] nats, of the current policy.
        spread: standard deviations; 2.5 in the paper's scripts.
        denominator: kept: the others weigh N / kept more, so that a token mean goes over what is
            left, as in the released code | all: they weigh what they did.
        base: the other objective's function; `base_inputs` are its keyword arguments.
    """
    own = (logprob.exp() * (logprob + entropy)).detach().double()
    std = _std(own)
    far = (own - own.mean() < -spread * std) if own.numel() else torch.zeros_like(own).bool()
    dropped = far & (advantage < 0) & (std >= FLAT)
    return _without(dropped, denominator, base(log_ratio, advantage, **base_inputs))


def clip_v(
    log_ratio: Tensor,
    advantage: Tensor,
    *,
    sensitivity: Tensor,
    spread: float,
    share: float,
    denominator: str = "kept",
    base: Callable[..., TokenLoss] = clip,
    **base_inputs: Any,
) -> TokenLoss:
    """Drop punished tokens of the largest -S, by the whole distribution (Clip_V, arXiv:2602.03392).

        D_t = -S_t             dropped: A_t < 0 and D_t > spread * std D, at most max(1, share * N)

    D is not centred; of too many, the largest are dropped. Tokens with A >= 0 are never touched. S
    is that of the policy the step began with.

    Args:
        log_ratio, advantage, denominator, base: as in `clip_b`.
        sensitivity: [N] S of the token statistics.
        spread: standard deviations (population); 8.5 in the released scripts.
        share: of all tokens, the most that is dropped; 1e-4 there.
    """
    change = -sensitivity.double()
    std = _std(change)
    dropped = (advantage < 0) & (change > spread * std) & (std >= FLAT)
    if int(dropped.sum()) > picked(share, change.numel()):
        order = change.masked_fill(~dropped, -torch.inf).argsort(descending=True, stable=True)
        dropped = torch.zeros_like(dropped)
        dropped[order[: picked(share, change.numel())]] = True
    return _without(dropped, denominator, base(log_ratio, advantage, **base_inputs))


def _std(values: Tensor) -> Tensor:
    """[] the population standard deviation, 0 of nothing."""
    return values.std(correction=0) if values.numel() else values.new_zeros(())


def _without(dropped: Tensor, denominator: str, result: TokenLoss) -> TokenLoss:
    """Take the dropped tokens out of a loss, and out of its token mean if `denominator` is kept."""
    kept = dropped.numel() - int(dropped.sum())
    scale = dropped.numel() / kept if denominator == "kept" and kept else 1.0
    loss = torch.where(dropped, 0.0, result.loss * scale)
    metrics = {"entropy_mask/frac": dropped.to(loss.dtype)}
    return TokenLoss(loss, result.metrics | metrics)


@dataclass(frozen=True, kw_only=True)
class ClipBConfig(OverConfig):
    """Coefficients of `objectives.clip_b`, and the whole config of its base."""

    function = staticmethod(clip_b)
    choices: ClassVar[tuple[str, ...]] = ("denominator",)

    spread: Any  # standard deviations below the mean from which on a punished token is dropped
    denominator: str  # kept | all

    def __post_init__(self) -> None:
        super().__post_init__()
        check_coefficient("objective.spread", self.spread, above=0)
        check_choice("objective.denominator", self.denominator, ("kept", "all"))

    @property
    def needs_minibatch(self) -> bool:
        """Mean and deviation are those of the whole minibatch."""
        return True


@dataclass(frozen=True, kw_only=True)
class ClipVConfig(ClipBConfig):
    """Coefficients of `objectives.clip_v`, and the whole config of its base."""

    function = staticmethod(clip_v)

    share: Any  # of the minibatch's tokens, the most that is dropped; always at least one

    def __post_init__(self) -> None:
        super().__post_init__()
        check_coefficient(
            "objective.share", self.share, above=0, at_most=1, hint="A fraction, not percent."
        )
