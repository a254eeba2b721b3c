"""FlexEC: clip bounds that depend on the token's probability, wider where the schedule says so."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from isentropic.objectives.ce_gppo import preserve_outside
from isentropic.objectives.clip import clip_between
from isentropic.objectives.loss import (
    ObjectiveConfig,
    TokenLoss,
    check_coefficient,
    check_dual_clip,
    lower_bound,
    lowest,
    upper_bound,
)


def flexec(
    log_ratio: Tensor,
    advantage: Tensor,
    *,
    old_logprob: Tensor,
    clip_low: float,
    clip_high: float,
    up_slope: float,
    up_width: float,
    low_slope: float,
    low_width: float,
    up_weight: float,
    low_weight: float,
    beta1: float | None = None,
    beta2: float | None = None,
    dual_clip: float | None = None,
) -> TokenLoss:
    """Clipped surrogate with bounds per token (flexible entropy control, arXiv:2602.09782).

        high(p) = w_up  * (up_slope * p + up_width)   + (1 - w_up)  * clip_high
        low(p)  = w_low * (low_slope * p + low_width) + (1 - w_low) * clip_low
        loss_t  = -min(r_t * A_t, clamp(r_t, 1 - low(p_t), 1 + high(p_t)) * A_t)

    p_t = r_t q_t is the current probability, so r_t stands on both sides of the inequality. Solved
    for it, with each mixed width written as a p + b, the bounds depend on q_t = pi_old alone:

        r_t is bounded to [(1 - b_low) / (1 + a_low q_t), (1 + b_high) / (1 - a_high q_t)]

    That is the same rule, and the bounds carry no gradient: a live width would push a silenced
    token against its advantage. Exactly on a bound a token is inside.

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient.
        advantage: [N] in reward units, no gradient.
        old_logprob: [N] nats; q_t.
        clip_low, clip_high: the standard widths, distances from ratio 1.
        up_slope, up_width, low_slope, low_width: of the probability-dependent widths; slopes in
            (-1, 0].
        up_weight, low_weight: how much of those widths is used, in [0, 1].
        beta1, beta2: gradient that is kept beyond the lower and the upper bound, as in `ce_gppo`
            but at the token's own bound ([reconstructed]). Both None: it is silenced, as published.
        dual_clip: as in `clip`; None is off, as published.
    """
    q = old_logprob.exp()
    a_low, b_low = _mixed(low_weight, low_slope, 0.0), _mixed(low_weight, low_width, clip_low)
    a_high, b_high = _mixed(up_weight, up_slope, 0.0), _mixed(up_weight, up_width, clip_high)
    lower, upper = (1 - b_low) / (1 + a_low * q), (1 + b_high) / (1 - a_high * q)
    if beta1 is None or beta2 is None:
        result = clip_between(log_ratio, advantage, lower, upper, dual_clip)
    else:
        result = preserve_outside(log_ratio, advantage, lower, upper, beta1, beta2, dual_clip)
    fixed = clip_between(
        log_ratio.detach(), advantage, lower_bound(clip_low), upper_bound(clip_high)
    )
    metrics = {
        "flexec/lower": lower,
        "flexec/upper": upper,
        "flexec/fixed_low_frac": fixed.metrics["clip/low_frac"],
        "flexec/fixed_high_frac": fixed.metrics["clip/high_frac"],
    }
    return TokenLoss(result.loss, result.metrics | metrics)


def _mixed(weight: float, moving: float, fixed: float) -> float:
    """Interpolate so that both ends are exact, and so is any weight between two equal ends."""
    if weight < 0.5:
        return fixed + weight * (moving - fixed)
    return moving - (1 - weight) * (moving - fixed)


@dataclass(frozen=True, kw_only=True)
class FlexEcConfig(ObjectiveConfig):
    """Coefficients of `objectives.flexec`; `steering=flexec` sets the two weights per step."""

    function = staticmethod(flexec)

    clip_low: Any  # standard distance below ratio 1
    clip_high: Any  # standard distance above ratio 1
    up_slope: Any  # of the moving upper width over the token's probability, in (-1, 0]
    up_width: Any  # that width for a token of probability 0
    low_slope: Any  # of the moving lower width, in (-1, 0]
    low_width: Any  # that width for a token of probability 0
    up_weight: Any  # how much of the moving upper width is used; 0 is the standard one
    low_weight: Any  # the same of the lower width
    beta1: Any  # gradient kept below the lower bound, as in CE-GPPO; null: none
    beta2: Any  # gradient kept above the upper bound; null: none
    dual_clip: Any  # ratio; null is off

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio != "token":
            raise ValueError(
                f"objective.ratio={self.ratio} with objective.name=flexec: its widths follow the "
                "probability of each token, which a sequence's ratio does not give. "
                "Set objective.ratio=token."
            )
        check_coefficient("objective.clip_low", self.clip_low, above=0, below=1)
        check_coefficient("objective.clip_high", self.clip_high, above=0)
        check_coefficient("objective.up_slope", self.up_slope, above=-1, at_most=0)
        check_coefficient("objective.low_slope", self.low_slope, above=-1, at_most=0)
        check_coefficient("objective.up_width", self.up_width, above=0)
        check_coefficient("objective.low_width", self.low_width, above=0, below=1)
        for side, slope, width in (
            ("up", self.up_slope, self.up_width),
            ("low", self.low_slope, self.low_width),
        ):
            if lowest(slope) + lowest(width) <= 0:
                raise ValueError(
                    f"objective.{side}_slope={slope} with objective.{side}_width={width}: a token of "
                    "probability 1 has their sum for its width, which must be above 0, or its bound "
                    "lies on the wrong side of ratio 1. Make the slope flatter or the width larger."
                )
        check_coefficient("objective.up_weight", self.up_weight, at_least=0, at_most=1)
        check_coefficient("objective.low_weight", self.low_weight, at_least=0, at_most=1)
        check_coefficient("objective.beta1", self.beta1, optional=True, at_least=0)
        check_coefficient("objective.beta2", self.beta2, optional=True, at_least=0)
        check_dual_clip(self)
        if (self.beta1 is None) != (self.beta2 is None):
            raise ValueError(
                f"objective.beta1={self.beta1} with objective.beta2={self.beta2}: set both to "
                "numbers, or both to null. For one silent side write 0."
            )
