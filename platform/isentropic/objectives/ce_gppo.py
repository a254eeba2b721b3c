"""CE-GPPO: clipped tokens keep a scaled gradient instead of losing it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isentropic.objectives.clip import cap_dual
from isentropic.objectives.loss import (
    ObjectiveConfig,
    TokenLoss,
    above,
    below,
    bounded_exp,
    check_clip,
    check_coefficient,
    check_dual_clip,
    clip_metrics,
    lower_bound,
    unit_slope,
    upper_bound,
)


def ce_gppo(
    log_ratio: Tensor,
    advantage: Tensor,
    *,
    clip_low: float | None,
    clip_high: float | None,
    beta1: float,
    beta2: float,
    dual_clip: float | None = None,
) -> TokenLoss:
    """Gradient-preserving clipping with a coefficient per side (CE-GPPO, arXiv:2509.20712).

    Equations 8 to 10:

        loss_t = -F_t * A_t                        d loss_t / d log_ratio_t = -F_t * A_t
        F_t    = beta1 * (1 - clip_low)            where r_t < 1 - clip_low  and A_t < 0
                 beta2 * (1 + clip_high)           where r_t > 1 + clip_high and A_t > 0
                 r_t                               elsewhere

    So beta1 weighs the punished tokens that fell below the interval (their gradient lowers
    entropy), beta2 the rewarded ones that rose above it (theirs raises it). Both 0 gives the
    gradient of PPO, not its loss value; both 1 gives GPPO. Exactly on a bound is inside.
    `log_ratio` beyond +-20 is clamped elsewhere; the first two branches need no clamp.

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient.
        advantage: [N] in reward units, no gradient.
        clip_low, clip_high: the interval is [1 - clip_low, 1 + clip_high]; None is no bound.
        beta1, beta2: share of the gradient kept on the low and on the high side, >= 0.
        dual_clip: in the released code, not in the paper: where A < 0 the loss is at most
            -dual_clip * A, with gradient 0 there.
    """
    lower, upper = lower_bound(clip_low), upper_bound(clip_high)
    return preserve_outside(log_ratio, advantage, lower, upper, beta1, beta2, dual_clip)


def preserve_outside(
    log_ratio: Tensor,
    advantage: Tensor,
    lower: float | Tensor | None,
    upper: float | Tensor | None,
    beta1: float,
    beta2: float,
    dual_clip: float | None = None,
) -> TokenLoss:
    """Compute `ce_gppo` with the bounds given as ratios: numbers, or [N] without gradient."""
    value = bounded_exp(log_ratio.detach())
    low = below(value, lower) & (advantage < 0)
    high = above(value, upper) & (advantage > 0)
    kept = low | high
    # Without a bound no token is on that side: its scale is never used.
    low_scale, high_scale = (
        torch.as_tensor(0.0 if bound is None else beta * bound, dtype=value.dtype)
        for beta, bound in ((beta1, lower), (beta2, upper))
    )
    scale = torch.where(low, low_scale.to(value.device), high_scale.to(value.device))
    # Both sides of `where` are finite, as the bounded exp is: no inf * 0 in the backward pass.
    factor = torch.where(kept, scale * unit_slope(log_ratio), bounded_exp(log_ratio))
    loss, dual = cap_dual(-(factor * advantage), advantage, dual_clip)
    return TokenLoss(loss, clip_metrics(value, low, high, dual))


@dataclass(frozen=True, kw_only=True)
class CeGppoConfig(ObjectiveConfig):
    """Coefficients of `objectives.ce_gppo`; each may be a schedule."""

    function = staticmethod(ce_gppo)

    clip_low: Any  # distance below ratio 1; null is no bound
    clip_high: Any  # distance above ratio 1; null is no bound
    beta1: Any  # of the low side: clipped tokens with A < 0
    beta2: Any  # of the high side: clipped tokens with A > 0
    dual_clip: Any  # ratio; null is off, the paper's form

    def __post_init__(self) -> None:
        super().__post_init__()
        check_clip(self)
        check_dual_clip(self)
        check_coefficient("objective.beta1", self.beta1, at_least=0)
        check_coefficient("objective.beta2", self.beta2, at_least=0)
