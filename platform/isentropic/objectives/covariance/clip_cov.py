"""Clip-Cov: a few tokens of high covariance, chosen at random, lose their gradient."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isentropic.objectives.clip import ClipConfig, clip
from isentropic.objectives.covariance.covariance import picked, token_covariance, token_hash
from isentropic.objectives.loss import TokenLoss, check_coefficient


def clip_cov(
    log_ratio: Tensor,
    advantage: Tensor,
    *,
    logprob: Tensor,
    clip_low: float | None,
    clip_high: float | None,
    share: float,
    cov_low: float,
    cov_high: float,
    dual_clip: float | None = None,
    seed: int = 0,
) -> TokenLoss:
    """Clipped surrogate that silences tokens of high covariance (Clip-Cov, arXiv:2505.22617).

        cov_t  = (A_t - mean A)(logprob_t - mean logprob)
        loss_t = 0 for max(1, int(share * N)) tokens drawn uniformly among those with
                   cov_low < cov_t < cov_high that the clip has not silenced already
                 `clip` elsewhere

    The silenced tokens stay in the denominator. N and the means are those of the tokens given, so
    give it a whole minibatch in canonical order. The draw hashes (seed, position).

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient.
        advantage: [N] in reward units, no gradient.
        logprob: [N] nats.
        clip_low, clip_high, dual_clip: as in `clip`.
        share: fraction of all N tokens; cov_low, cov_high: in nats times reward units.
        seed: of the draw; the learner gives one per update.
    """
    base = clip(log_ratio, advantage, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)
    covariance = token_covariance(logprob, advantage)
    open_to_draw = (
        (covariance > cov_low) & (covariance < cov_high) & (base.metrics["clip/frac"] == 0)
    )
    drawn = _draw(open_to_draw, picked(share, log_ratio.numel()), seed)
    metrics = {"cov": covariance, "clip_cov/frac": drawn.to(covariance.dtype)}
    return TokenLoss(torch.where(drawn, 0.0, base.loss), base.metrics | metrics)


def _draw(candidates: Tensor, count: int, seed: int) -> Tensor:
    """Draw `count` of the candidates, those with the smallest hashes; all if they are fewer."""
    hashes = token_hash(seed, candidates.numel(), candidates.device)
    smallest = (
        hashes.masked_fill(~candidates, torch.iinfo(torch.int64).max)
        .topk(count, largest=False)
        .indices
    )
    drawn = torch.zeros_like(candidates)
    drawn[smallest] = True
    return drawn & candidates


@dataclass(frozen=True, kw_only=True)
class ClipCovConfig(ClipConfig):
    """Coefficients of `objectives.clip_cov`."""

    function = staticmethod(clip_cov)
    needs_minibatch = True

    share: Any  # fraction of the minibatch's tokens
    cov_low: Any
    cov_high: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        check_coefficient(
            "objective.share", self.share, above=0, at_most=1, hint="A fraction, not percent."
        )
        check_coefficient("objective.cov_low", self.cov_low)
        check_coefficient("objective.cov_high", self.cov_high)
