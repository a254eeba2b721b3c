"""Teacher tokens with a shaped probability instead of a ratio: LUFFY's way, one reading of OGER."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isentropic.objectives.clip import clip
from isentropic.objectives.loss import ObjectiveConfig, TokenLoss, check_coefficient
from isentropic.objectives.over.base import OverConfig


def shaped_offline(
    log_ratio: Tensor,
    advantage: Tensor,
    *,
    logprob: Tensor,
    is_teacher: Tensor,
    offline_shape: float,
    base: Callable[..., TokenLoss] = clip,
    **base_inputs: Any,
) -> TokenLoss:
    """Policy shaping on teacher tokens (LUFFY, arXiv:2504.14945), `base` on the policy's own.

        loss_t = -p / (p + offline_shape) * A_t    on teacher tokens, p = exp(logprob_t)
        loss_t = base loss_t                       elsewhere

    No ratio and no clip on teacher tokens. Their weight on grad log pi is s p / (p + s)^2 * A with
    s the shape: largest at p = s, so that tokens which the policy finds unlikely are still learned.

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient.
        advantage: [N] in reward units, no gradient.
        logprob: [N] nats under the current weights; carries the gradient.
        is_teacher: [N] bool.
        offline_shape: > 0; 0.1 in LUFFY.
        base: the other objective's function; `base_inputs` are its keyword arguments.
    """
    loss, metrics = base(log_ratio, advantage, **base_inputs)
    # p / (p + s), safe for any logprob
    shaped = -torch.sigmoid(logprob - math.log(offline_shape)) * advantage
    metrics = {
        name: torch.where(is_teacher, 0.0, values) if name.startswith("clip/") else values
        for name, values in metrics.items()
    }
    return TokenLoss(torch.where(is_teacher, shaped, loss), metrics)


@dataclass(frozen=True, kw_only=True)
class ShapedOfflineConfig(OverConfig):
    """The constant of `objectives.shaped_offline`, and the whole config of its base."""

    function = staticmethod(shaped_offline)

    offline_shape: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        check_coefficient("objective.offline_shape", self.offline_shape, above=0)


def with_shaped_offline(base: ObjectiveConfig, offline_shape: float | None) -> ObjectiveConfig:
    """Put `shaped_offline` over `base`; `base` itself for None."""
    if offline_shape is None:
        return base
    return ShapedOfflineConfig(
        name="shaped_offline", ratio=base.ratio, offline_shape=offline_shape, base=base
    )
