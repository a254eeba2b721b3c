"""BAPO: clip bounds are searched per minibatch, until positive and negative parts balance."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isentropic.objectives.clip import clip_between
from isentropic.objectives.loss import (
    ObjectiveConfig,
    TokenLoss,
    bounded_exp,
    check_coefficient,
    check_dual_clip,
    resolve,
)


def bapo(
    log_ratio: Tensor,
    advantage: Tensor,
    *,
    c_low: float,
    c_low_max: float,
    c_high: float,
    c_high_max: float,
    step: float,
    target_ratio: float,
    dual_clip: float | None = None,
) -> TokenLoss:
    """Clipped surrogate with adaptive bounds (BAPO, arXiv:2510.18927; search as in its code).

        F+ = sum of max(rhat A, 0), F- = sum of max(-rhat A, 0),
        rhat = min(r, c_high) where A >= 0, max(r, c_low) where A < 0
        while F+ < target_ratio * F- and c_low  < c_low_max :  c_low  += step, at most c_low_max
        while F+ < target_ratio * F- and c_high < c_high_max:  c_high += step, at most c_high_max
        loss_t = -min(r_t * A_t, clamp(r_t, c_low, c_high) * A_t)

    The sums go over the tokens given: a whole minibatch. The bounds that the search ends with are
    metrics. F- = 0 ends the search.

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient.
        advantage: [N] in reward units, no gradient.
        c_low, c_high: the bounds on the RATIO at the start of the search.
        c_low_max, c_high_max: the bounds on the RATIO at its end.
        step: of the search, in units of the ratio.
        target_ratio: F+ / F- to reach (the paper's share rho of the total is rho / (1 - rho) here).
        dual_clip: as in `clip`.
    """
    ratio = bounded_exp(log_ratio.detach()).double()
    weight = advantage.double()

    def short(low: float, high: float) -> bool:
        bounded = torch.where(weight < 0, ratio.clamp(min=low), ratio.clamp(max=high)) * weight
        negative = float((-bounded).clamp(min=0).sum())
        return negative > 0 and float(bounded.clamp(min=0).sum()) / negative < target_ratio

    while c_low < c_low_max and short(c_low, c_high):
        c_low = min(c_low + step, c_low_max)
    while c_high < c_high_max and short(c_low, c_high):
        c_high = min(c_high + step, c_high_max)
    result = clip_between(log_ratio, advantage, c_low, c_high, dual_clip)
    one = torch.ones_like(result.metrics["ratio"])
    return TokenLoss(
        result.loss, result.metrics | {"bapo/c_low": c_low * one, "bapo/c_high": c_high * one}
    )


@dataclass(frozen=True, kw_only=True)
class BapoConfig(ObjectiveConfig):
    """Coefficients of `objectives.bapo`; bounds are ratios, not widths."""

    function = staticmethod(bapo)
    needs_minibatch = True

    c_low: Any
    c_low_max: Any
    c_high: Any
    c_high_max: Any
    step: Any
    target_ratio: Any  # positive over negative part, not a share of the total
    dual_clip: Any  # ratio; null is off

    def __post_init__(self) -> None:
        super().__post_init__()
        check_coefficient("objective.c_low", self.c_low, at_least=0, at_most=1)
        check_coefficient("objective.c_high", self.c_high, at_least=1)
        check_coefficient(
            "objective.c_low_max", self.c_low_max, at_least=resolve(self.c_low, 1), at_most=1
        )
        check_coefficient("objective.c_high_max", self.c_high_max, at_least=resolve(self.c_high, 1))
        check_coefficient("objective.step", self.step, above=0)
        check_coefficient("objective.target_ratio", self.target_ratio, above=0)
        check_dual_clip(self)
