"""GPPO: gradient-preserving clipping, CE-GPPO with both betas 1."""

from dataclasses import dataclass

from torch import Tensor

from isentropic.objectives.ce_gppo import ce_gppo
from isentropic.objectives.clip import ClipConfig
from isentropic.objectives.loss import TokenLoss


def gppo(
    log_ratio: Tensor,
    advantage: Tensor,
    *,
    clip_low: float | None,
    clip_high: float | None,
    dual_clip: float | None = None,
) -> TokenLoss:
    """GPPO (Klear-Reasoner, arXiv:2508.07629, Eq. 11): a clipped token keeps the bound's gradient.

        loss_t = -F_t * A_t
        F_t    = 1 - clip_low     where r_t < 1 - clip_low  and A_t < 0
                 1 + clip_high    where r_t > 1 + clip_high and A_t > 0
                 r_t              elsewhere

    The forward value equals PPO's. Arguments as in `ce_gppo`.
    """
    return ce_gppo(
        log_ratio,
        advantage,
        clip_low=clip_low,
        clip_high=clip_high,
        beta1=1.0,
        beta2=1.0,
        dual_clip=dual_clip,
    )


@dataclass(frozen=True, kw_only=True)
class GppoConfig(ClipConfig):
    """Coefficients of `objectives.gppo`: those of `clip`."""

    function = staticmethod(gppo)
