"""KL-Cov: the tokens of highest covariance are held back by a penalty on their log ratio."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isentropic.objectives.covariance.covariance import picked, token_covariance
from isentropic.objectives.loss import ObjectiveConfig, TokenLoss, bounded_exp, check_coefficient

# Nats: float32 logprobs of one policy differ by less between the ways to sum them.
RESOLUTION = 1e-5


def kl_cov(
    log_ratio: Tensor, advantage: Tensor, *, logprob: Tensor, share: float, kl_coef: float
) -> TokenLoss:
    """Unclipped surrogate, a penalty at the highest covariances (KL-Cov, arXiv:2505.22617).

        cov_t  = (A_t - mean A)(logprob_t - mean logprob)
        loss_t = -r_t * A_t + kl_coef * |log_ratio_t|     for the max(1, int(share * N)) tokens
                                                          of largest cov_t
                 -r_t * A_t                               elsewhere

    At |log_ratio| <= 1e-5 nats the penalty has no gradient, as at 0: on which side of 0 the rounding of
    two equal logprobs lies depends on their microbatches, and |log_ratio| has its whole slope there. Ours.

    Equal covariances are taken in token order. N and the means are those of the tokens given: a
    whole minibatch.

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient; clamped to +-20 in r_t.
        advantage: [N] in reward units, no gradient.
        logprob: [N] nats.
        share: fraction of all N tokens (not percent).
        kl_coef: >= 0.
    """
    ratio = bounded_exp(log_ratio)
    covariance = token_covariance(logprob, advantage)
    held = torch.zeros_like(covariance, dtype=torch.bool)
    held[covariance.argsort(descending=True, stable=True)[: picked(share, covariance.numel())]] = (
        True
    )
    moved = held & (log_ratio.detach().abs() > RESOLUTION)
    penalty = torch.where(moved, kl_coef * log_ratio.abs(), 0.0)
    metrics = {"ratio": ratio.detach(), "cov": covariance, "kl_cov/frac": held.to(covariance.dtype)}
    return TokenLoss(-(ratio * advantage) + penalty, metrics)


@dataclass(frozen=True, kw_only=True)
class KlCovConfig(ObjectiveConfig):
    """Coefficients of `objectives.kl_cov`."""

    function = staticmethod(kl_cov)
    needs_minibatch = True

    share: Any  # fraction of the minibatch's tokens
    kl_coef: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        check_coefficient(
            "objective.share", self.share, above=0, at_most=1, hint="A fraction, not percent."
        )
        check_coefficient("objective.kl_coef", self.kl_coef, at_least=0)
