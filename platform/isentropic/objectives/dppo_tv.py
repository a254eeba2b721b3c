"""DPPO with total variation: tokens are dropped by the change of their probability."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isentropic.objectives.loss import (
    ObjectiveConfig,
    TokenLoss,
    bounded_exp,
    check_coefficient,
    clip_metrics,
)


def dppo_tv(
    log_ratio: Tensor,
    advantage: Tensor,
    *,
    logprob: Tensor,
    old_logprob: Tensor,
    delta: float,
    square_coef: float = 0.0,
) -> TokenLoss:
    """Divergence PPO with the total-variation mask (DPPO, arXiv:2602.04879).

        d_t    = exp(logprob_t) - exp(old_logprob_t)
        loss_t = 0                     where A_t > 0 and d_t > delta, or A_t < 0 and d_t < -delta
                 -r_t * A_t            elsewhere
        loss_t += square_coef * log_ratio_t^2                              for every token

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient; clamped to +-20 in r_t.
        advantage: [N] in reward units, no gradient.
        logprob, old_logprob: [N] nats.
        delta: probability, in (0, 1).
        square_coef: >= 0; the square term is that of prime-rl's default loss.
    """
    shift = logprob.detach().exp() - old_logprob.exp()
    low = (shift < -delta) & (advantage < 0)
    high = (shift > delta) & (advantage > 0)
    ratio = bounded_exp(log_ratio)
    loss = torch.where(low | high, 0.0, -(ratio * advantage)) + square_coef * log_ratio.square()
    return TokenLoss(loss, clip_metrics(ratio, low, high))


@dataclass(frozen=True, kw_only=True)
class DppoTvConfig(ObjectiveConfig):
    """Coefficients of `objectives.dppo_tv`."""

    function = staticmethod(dppo_tv)

    delta: Any  # largest change of probability
    square_coef: Any  # of the square of the log ratio

    def __post_init__(self) -> None:
        super().__post_init__()
        check_coefficient(
            "objective.delta",
            self.delta,
            above=0,
            below=1,
            hint="It is a difference of probabilities.",
        )
        check_coefficient("objective.square_coef", self.square_coef, at_least=0)
