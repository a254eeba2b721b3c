"""ASPO: rewarded tokens are weighed by the inverse of their ratio."""

import math
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


def aspo(
    log_ratio: Tensor,
    advantage: Tensor,
    *,
    clip_low: float | None,
    clip_high: float | None,
    inverse_max: float,
    dual_clip: float | None = None,
) -> TokenLoss:
    """Asymmetric importance sampling (ASPO, arXiv:2510.06062).

        A > 0:  loss_t = -min(1/r_t, inverse_max) * A_t    0 gradient where r_t > 1 + clip_high
                d loss_t / d log_ratio_t = loss_t          also where the cap binds
        A < 0:  `clip`, with its dual clip

    So a rewarded token that has become unlikely is pulled up harder, where plain importance
    sampling lets go of it. Exactly on a bound is inside; `log_ratio` beyond +-20 is clamped.

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient.
        advantage: [N] in reward units, no gradient.
        clip_low, clip_high: distances from ratio 1; None is no bound.
        inverse_max: the most that 1/r counts; [reconstructed], a figure shows 3.
        dual_clip: as in `clip`, for A < 0.
    """
    lower, upper = lower_bound(clip_low), upper_bound(clip_high)
    value = bounded_exp(log_ratio.detach())
    low = below(value, lower) & (advantage < 0)
    high = above(value, upper) & (advantage > 0)
    # The smaller of 1/r and the cap, formed in the log: p is never squared.
    inverse = bounded_exp((-log_ratio.detach()).clamp(max=math.log(inverse_max)))
    inverse = inverse * torch.where(high, 1.0, unit_slope(log_ratio))
    ratio = bounded_exp(log_ratio)
    if lower is not None:
        ratio = torch.where(low, lower, ratio)
    factor = torch.where(advantage > 0, inverse, ratio)
    loss, dual = cap_dual(-(factor * advantage), advantage, dual_clip)
    return TokenLoss(loss, clip_metrics(value, low, high, dual))


@dataclass(frozen=True, kw_only=True)
class AspoConfig(ObjectiveConfig):
    """Coefficients of `objectives.aspo`."""

    function = staticmethod(aspo)

    clip_low: Any  # distance below ratio 1; null is no bound
    clip_high: Any  # distance above ratio 1; null is no bound
    inverse_max: Any  # the most that the inverse ratio of a rewarded token counts
    dual_clip: Any  # ratio; null is off

    def __post_init__(self) -> None:
        super().__post_init__()
        check_clip(self)
        check_dual_clip(self)
        check_coefficient("objective.inverse_max", self.inverse_max, at_least=1)
