"""SAPO: a smooth gate in place of the clip."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isentropic.objectives.loss import ObjectiveConfig, TokenLoss, bounded_exp, check_coefficient


def sapo(log_ratio: Tensor, advantage: Tensor, *, tau_pos: float, tau_neg: float) -> TokenLoss:
    """Soft adaptive gate (SAPO, arXiv:2511.20347).

        loss_t = -(4 / tau) * sigmoid(tau * (r_t - 1)) * A_t
        tau    = tau_pos where A_t > 0, else tau_neg

    d loss_t / d log_ratio_t = -4 s (1 - s) r_t A_t with s the sigmoid: -A_t at r_t = 1, fading out
    on both sides.

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient; clamped to +-20.
        advantage: [N] in reward units, no gradient.
        tau_pos, tau_neg: steepness of the gate for either sign, > 0.
    """
    ratio = bounded_exp(log_ratio)
    tau = torch.full_like(ratio, tau_neg).masked_fill(advantage > 0, tau_pos)
    gate = torch.sigmoid(tau * (ratio - 1))
    loss = -(4 / tau * gate * advantage)
    return TokenLoss(loss, {"ratio": ratio.detach(), "sapo/gate": (4 * gate * (1 - gate)).detach()})


@dataclass(frozen=True, kw_only=True)
class SapoConfig(ObjectiveConfig):
    """Coefficients of `objectives.sapo`."""

    function = staticmethod(sapo)

    tau_pos: Any  # steepness where A > 0
    tau_neg: Any  # steepness elsewhere

    def __post_init__(self) -> None:
        super().__post_init__()
        check_coefficient("objective.tau_pos", self.tau_pos, above=0)
        check_coefficient("objective.tau_neg", self.tau_neg, above=0)
