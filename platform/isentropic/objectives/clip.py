"""Clipped surrogate of PPO, with DAPO's two separate bounds and the dual clip as an option."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isentropic.objectives.loss import (
    ObjectiveConfig,
    TokenLoss,
    above,
    below,
    bounded_exp,
    check_clip,
    check_dual_clip,
    clip_metrics,
    lower_bound,
    upper_bound,
)


def clip(
    log_ratio: Tensor,
    advantage: Tensor,
    *,
    clip_low: float | None,
    clip_high: float | None,
    dual_clip: float | None = None,
) -> TokenLoss:
    """Clipped surrogate (PPO, arXiv:1707.06347) with DAPO's two bounds and the dual clip.

        r_t    = exp(log_ratio_t)
        loss_t = -min(r_t * A_t, clamp(r_t, 1 - clip_low, 1 + clip_high) * A_t)
        loss_t = min(loss_t, -dual_clip * A_t)                                      where A_t < 0

    A token already past its bound, in the direction its advantage asks for, gets no gradient.
    Exactly on a bound it is inside. `log_ratio` beyond +-20 is clamped, gradient 0. The two bounds
    are those of DAPO (arXiv:2503.14476), the dual clip is that of arXiv:1912.09729.

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient.
        advantage: [N] in reward units, no gradient.
        clip_low, clip_high: the ratio is bounded to [1 - clip_low, 1 + clip_high]; None is no
            bound.
        dual_clip: ratio beyond which a token with A < 0 is silent; None is off.
    """
    return clip_between(
        log_ratio, advantage, lower_bound(clip_low), upper_bound(clip_high), dual_clip
    )


def clip_between(
    log_ratio: Tensor,
    advantage: Tensor,
    lower: float | Tensor | None,
    upper: float | Tensor | None,
    dual_clip: float | None = None,
) -> TokenLoss:
    """Compute `clip` with the bounds given as ratios: numbers, or [N] without gradient."""
    ratio = bounded_exp(log_ratio)
    low = below(ratio, lower) & (advantage < 0)
    high = above(ratio, upper) & (advantage > 0)
    if lower is not None:
        ratio = torch.where(low, lower, ratio)
    if upper is not None:
        ratio = torch.where(high, upper, ratio)
    loss, dual = cap_dual(-(ratio * advantage), advantage, dual_clip)
    return TokenLoss(loss, clip_metrics(bounded_exp(log_ratio.detach()), low, high, dual))


def cap_dual(
    loss: Tensor, advantage: Tensor, dual_clip: float | None
) -> tuple[Tensor, Tensor | None]:
    """Cap the loss at -dual_clip * A where A < 0, gradient 0 there; say which tokens it caught."""
    if dual_clip is None:
        return loss, None
    cap = -dual_clip * advantage
    dual = (advantage < 0) & (loss.detach() > cap)
    return torch.where(dual, cap, loss), dual


@dataclass(frozen=True, kw_only=True)
class ClipConfig(ObjectiveConfig):
    """Coefficients of `objectives.clip`; the values live in conf/objective/."""

    function = staticmethod(clip)

    clip_low: Any  # distance below ratio 1; null is no bound
    clip_high: Any  # distance above ratio 1; null is no bound
    dual_clip: Any  # ratio; null is off

    def __post_init__(self) -> None:
        super().__post_init__()
        check_clip(self)
        check_dual_clip(self)
