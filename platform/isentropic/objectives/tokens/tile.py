"""What is done with one tile of logits between the matrix products, in torch: the reference.

`kernels` does the same on a GPU in one pass over the tile.
"""

import torch
from torch import Tensor


class Sums:
    """Running sums over the vocabulary, relative to the running maximum m, of one block of rows.

    s0 = sum e^(z-m)       s1 = sum e^(z-m) (z-m)
    q0 = sum e^(2(z-m))    q1 = sum e^(2(z-m)) (z-m)    q2 = sum e^(2(z-m)) (z-m)^2
    """

    def __init__(self, logits: Tensor) -> None:
        """Start at the first tile's maximum: there is never a maximum of -inf to guard against."""
        self.maximum = logits.amax(-1)
        self.s0, self.s1, self.q0, self.q1, self.q2, self.picked = logits.new_zeros(
            (6, logits.shape[0])
        )

    def add(self, logits: Tensor, local_target: Tensor) -> None:
        """Add a tile [R, C], overwriting it; `local_target` [R] counts from its first column."""
        picked, inside = pick(logits, local_target)
        self.picked = torch.where(inside, picked, self.picked)
        maximum = torch.maximum(self.maximum, logits.amax(-1))
        self._rescale(self.maximum - maximum)
        self.maximum = maximum
        shifted = logits.sub_(maximum[:, None])
        e = shifted.exp()
        self.s0 += e.sum(-1)
        self.q0 += torch.linalg.vecdot(e, e)
        weighted = shifted.mul_(e)
        self.s1 += weighted.sum(-1)
        self.q1 += torch.linalg.vecdot(e, weighted)
        self.q2 += torch.linalg.vecdot(weighted, weighted)

    def _rescale(self, d: Tensor) -> None:
        """Rescale the sums: the maximum rose by -d."""
        factor = d.exp()
        self.s1 = factor * (self.s1 + d * self.s0)
        self.q2 = factor.square() * (self.q2 + d * (2 * self.q1 + d * self.q0))
        self.q1 = factor.square() * (self.q1 + d * self.q0)
        self.s0 = factor * self.s0
        self.q0 = factor.square() * self.q0


def gradient(
    logits: Tensor,
    norm: Tensor,
    local_target: Tensor,
    grad_logprob: Tensor | None,
    grad_entropy: Tensor | None,
    entropy: Tensor,
    *,
    scale: float,
    dtype: torch.dtype,
) -> Tensor:
    """Compute [R, C] d(loss) / d(logits before they are scaled) of a tile, which it overwrites.

    Args:
        logits: [R, C] times `scale`, 1 / temperature.
        norm: [2, R] maximum and log s0 of each row over the whole vocabulary.
        local_target: [R] counts from the tile's first column.
        grad_logprob, grad_entropy: [R] of the loss; None if it does not depend on one, not both.
        entropy: [R] nats.
        dtype: of the result.
    """
    logprob = logits.sub_(norm[0, :, None]).sub_(norm[1, :, None])
    grad = logit_gradient(logprob, local_target, grad_logprob, grad_entropy, entropy)
    return (grad.mul_(scale) if scale != 1.0 else grad).to(dtype)


def logit_gradient(
    logprob: Tensor,
    local_target: Tensor,
    grad_logprob: Tensor | None,
    grad_entropy: Tensor | None,
    entropy: Tensor,
) -> Tensor:
    """[R, C] d(loss) / d(logits over temperature): g_y (1[a = y] - p_a) - g_H p_a (log p_a + H)."""
    grad = logprob.exp()
    if grad_entropy is not None:
        pull = torch.addcmul(
            entropy[:, None] * grad_entropy[:, None], logprob, grad_entropy[:, None]
        )
        grad.mul_(pull.add_(grad_logprob[:, None]) if grad_logprob is not None else pull).neg_()
    else:
        grad.mul_(grad_logprob.neg()[:, None])
    if grad_logprob is not None:
        width = logprob.shape[1]
        inside = (local_target >= 0) & (local_target < width)
        column = local_target.clamp(0, width - 1)[:, None]
        grad.scatter_add_(1, column, torch.where(inside, grad_logprob, 0.0)[:, None])
    return grad


def pick(logits: Tensor, local_target: Tensor) -> tuple[Tensor, Tensor]:
    """Give [R] the target's logit if the tile has it, and [R] whether it has."""
    width = logits.shape[1]
    inside = (local_target >= 0) & (local_target < width)
    return logits.gather(1, local_target.clamp(0, width - 1)[:, None])[:, 0], inside
