"""GSPO: the clipped surrogate on one ratio per sequence."""

from dataclasses import dataclass

from torch import Tensor

from isentropic.objectives.clip import ClipConfig, clip
from isentropic.objectives.loss import TokenLoss
from isentropic.objectives.loss.ratio import sequence_log_ratio


def gspo(
    log_ratio: Tensor,
    advantage: Tensor,
    *,
    sequence_id: Tensor,
    clip_low: float | None,
    clip_high: float | None,
    dual_clip: float | None = None,
) -> TokenLoss:
    """Clipped surrogate with the sequence ratio (GSPO, arXiv:2507.18071).

    In the token form, see `sequence_log_ratio`:

        s_i     = exp(mean over t of log_ratio_it)
        loss_it = -min(s_it * A_it, clamp(s_it, 1 - clip_low, 1 + clip_high) * A_it)

    Args:
        log_ratio: [N] logprob - old_logprob of each TOKEN, in nats; carries the gradient.
        advantage: [N] in reward units, no gradient.
        sequence_id: [N] int64, the sequence each token belongs to; sequences must be whole.
        clip_low, clip_high, dual_clip: as in `clip`; 3e-4 and 4e-4 in the paper.
    """
    log_ratio = sequence_log_ratio(log_ratio, sequence_id)
    return clip(log_ratio, advantage, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)


@dataclass(frozen=True, kw_only=True)
class GspoConfig(ClipConfig):
    """Coefficients of `objectives.gspo`.

    `step_loss` forms the sequence ratio before it calls an objective, so the function is `clip`'s.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio != "sequence":
            raise ValueError(
                f"objective.ratio of gspo must be sequence, got {self.ratio!r}. "
                "For token ratios choose objective=clip."
            )
