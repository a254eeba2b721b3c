"""CISPO: the importance ratio is clipped, the gradient of no token is lost."""

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
    clip_metrics,
    lower_bound,
    no_value,
    upper_bound,
)


def cispo(
    log_ratio: Tensor,
    advantage: Tensor,
    *,
    logprob: Tensor,
    clip_low: float | None,
    clip_high: float | None,
) -> TokenLoss:
    """Clipped importance weights on the policy gradient (MiniMax-M1, arXiv:2506.13585).

        loss_t = -sg(clamp(r_t, 1 - clip_low, 1 + clip_high)) * A_t * logprob_t

    The weight is clipped for either sign of A. MiniMax has no lower bound: clip_low None.

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient.
        advantage: [N] in reward units, no gradient.
        logprob: [N] nats; only its value is used.
        clip_low, clip_high: the weight is bounded to [1 - clip_low, 1 + clip_high]; None is no
            bound.
    """
    ratio = bounded_exp(log_ratio.detach())
    lower, upper = lower_bound(clip_low), upper_bound(clip_high)
    weight = ratio if lower is None and upper is None else ratio.clamp(lower, upper)
    # One path for the gradient, so that the sequence ratio works too.
    live = logprob.detach().clamp(min=torch.finfo(logprob.dtype).min) + no_value(log_ratio)
    loss = -(weight * advantage * live)
    return TokenLoss(loss, clip_metrics(ratio, below(ratio, lower), above(ratio, upper)))


@dataclass(frozen=True, kw_only=True)
class CispoConfig(ObjectiveConfig):
    """Coefficients of `objectives.cispo`."""

    function = staticmethod(cispo)

    clip_low: Any  # distance below ratio 1; null is no bound
    clip_high: Any  # distance above ratio 1; null is no bound

    def __post_init__(self) -> None:
        super().__post_init__()
        check_clip(self)
