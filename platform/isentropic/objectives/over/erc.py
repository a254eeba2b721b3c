"""ERC: any objective, silent at tokens whose entropy changed too much."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isentropic.objectives.clip import clip
from isentropic.objectives.loss import TokenLoss, check_coefficient
from isentropic.objectives.over.base import OverConfig

TINY = 1e-8  # nats, added to both entropies as in the released code
# Nats. Float32 entropies of one distribution differ by up to 1.3e-6 between the ways to sum them (the
# whole vocabulary at once, or in tiles), and which way a token gets depends on its microbatch.
RESOLUTION = 1e-5


def erc(
    log_ratio: Tensor,
    advantage: Tensor,
    *,
    entropy: Tensor,
    old_entropy: Tensor,
    band_low: float,
    band_high: float,
    base: Callable[..., TokenLoss] = clip,
    **base_inputs: Any,
) -> TokenLoss:
    """Entropy-ratio clipping over another objective (ERC, arXiv:2512.05591).

        rho_t  = (H_t + 1e-8) / (H_old,t + 1e-8)    exact entropies, current over old policy
        rho_t  = 1                   where |H_t - H_old,t| <= 1e-5 nats: too little to tell from rounding
        loss_t = base loss_t         where band_low <= rho_t <= band_high
                 sg(base loss_t)     elsewhere: no gradient, still in the denominator

    No gradient flows through rho. The second line is ours: near H = 0 a band of 5 % is narrower than
    the rounding of an entropy (below 3e-5 nats), and which tokens are silent would depend on packing.

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient.
        advantage: [N] in reward units, no gradient.
        entropy, old_entropy: [N] nats, full vocabulary, computed by the same code.
        band_low, band_high: bounds on rho; 0.95 and 1.05 in the paper.
        base: the other objective's function; `base_inputs` are its keyword arguments.
    """
    loss, base_metrics = base(log_ratio, advantage, **base_inputs)
    entropy = entropy.detach()
    change = (entropy + TINY) / (old_entropy + TINY)
    change = change.masked_fill((entropy - old_entropy).abs() <= RESOLUTION, 1.0)
    low, high = change < band_low, change > band_high
    metrics = {
        "erc/entropy_ratio": change,
        "erc/low_frac": low.to(change.dtype),
        "erc/high_frac": high.to(change.dtype),
    }
    return TokenLoss(torch.where(low | high, loss.detach(), loss), base_metrics | metrics)


@dataclass(frozen=True, kw_only=True)
class ErcConfig(OverConfig):
    """Coefficients of `objectives.erc`, and the whole config of its base."""

    function = staticmethod(erc)

    band_low: Any  # bounds on the entropy ratio
    band_high: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        check_coefficient("objective.band_low", self.band_low, at_least=0, below=1)
        check_coefficient("objective.band_high", self.band_high, above=1)
