"""What every objective returns, and the few pieces that most of them share."""

from typing import NamedTuple

from torch import Tensor

# |log r| beyond it is clamped before exp: e^20 is 5e8, far outside any clip interval.
LOG_RATIO_LIMIT = 20.0


class TokenLoss(NamedTuple):
    """Loss and metrics of each response token, unreduced."""

    loss: Tensor  # [N] to be minimised; carries the gradient
    metrics: dict[str, Tensor]  # [N] each, detached; their means over the tokens are logged


def bounded_exp(log_ratio: Tensor) -> Tensor:
    """Return exp(log_ratio), log_ratio clamped to +-20: beyond it the gradient is 0."""
    return log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def unit_slope(log_ratio: Tensor) -> Tensor:
    """Return r / sg(r): value 1, gradient that of log_ratio; at +-inf 0, as beyond any clamp."""
    return no_value(log_ratio).exp()


def no_value(log_ratio: Tensor) -> Tensor:
    """Return log_ratio - sg(log_ratio): value 0, gradient that of log_ratio; at +-inf 0."""
    # inf - inf would be NaN. A NaN stays one, with its gradient: the update is seen to be broken.
    finite = log_ratio.masked_fill(log_ratio.isinf(), 0.0)
    return finite - finite.detach()


def below(ratio: Tensor, bound: float | Tensor | None) -> Tensor:
    """[N] ratio < bound; a token exactly on the bound is inside, and None is no bound."""
    return ratio < (float("-inf") if bound is None else bound)


def above(ratio: Tensor, bound: float | Tensor | None) -> Tensor:
    """[N] ratio > bound, the mirror of `below`."""
    return ratio > (float("inf") if bound is None else bound)


def clip_metrics(
    ratio: Tensor, low: Tensor, high: Tensor, dual: Tensor | None = None
) -> dict[str, Tensor]:
    """Say which tokens are bound on the low, high and dual side ([N] bool each)."""
    ratio = ratio.detach()
    metrics = {
        "ratio": ratio,
        "clip/frac": (low | high).to(ratio.dtype),
        "clip/low_frac": low.to(ratio.dtype),
        "clip/high_frac": high.to(ratio.dtype),
    }
    if dual is not None:
        metrics["clip/dual_frac"] = dual.to(ratio.dtype)
    return metrics
