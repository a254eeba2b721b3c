"""Triton kernels for one tile of logits: each reads it once, and neither needs a tile of its own.

The matrix products stay torch's, whose kernels are the fastest there are. What a GPU's memory would
be slow at is the dozen of passes that torch makes over each tile of logits between them. They
become one pass per kernel here: 8 bytes per logit forward, 10 backward in bfloat16.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # columns that a program works on at once
WARPS = 8
# Below any logit, and finite: e^(FLOOR - m) is 0, and 0 * FLOOR too, unlike 0 * -inf.
FLOOR = tl.constexpr(-1e30)
FIELDS = ("maximum", "s0", "s1", "q0", "q1", "q2", "picked")


class KernelSums:
    """The running sums of `tile.Sums`, in a form that a kernel updates: one program per row."""

    def __init__(self, logits: Tensor) -> None:
        """Make sums of no logits yet for the rows of the first tile [R, C]."""
        self._state = logits.new_zeros((len(FIELDS), logits.shape[0]))
        self._state[0] = FLOOR.value
        self.maximum, self.s0, self.s1, self.q0, self.q1, self.q2, self.picked = self._state

    def add(self, logits: Tensor, local_target: Tensor) -> None:
        """Add a tile [R, C], which stays as it is; `local_target` [R] counts from its first column."""
        rows, width = logits.shape
        if rows:
            _add[(rows,)](
                logits, local_target, self._state, rows, width, logits.stride(0),
                BLOCK=_block(width), num_warps=WARPS,
            )  # fmt: skip


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
    """Compute what `tile.gradient` does, whose arguments it has; the logits stay as they are."""
    rows, width = logits.shape
    grad = torch.empty_like(logits, dtype=dtype)
    per_row = entropy.new_zeros((5, rows))
    per_row[:2] = norm
    per_row[2] = entropy
    if grad_logprob is not None:
        per_row[3] = scale * grad_logprob
    if grad_entropy is not None:
        per_row[4] = scale * grad_entropy
    if rows:
        block = _block(width)
        _gradient[(rows, triton.cdiv(width, block))](
            logits, local_target, per_row, grad, rows, width, logits.stride(0), grad.stride(0),
            BLOCK=block, num_warps=WARPS,
        )  # fmt: skip
    return grad


def _block(width: int) -> int:
    return min(BLOCK, triton.next_power_of_2(width))


@triton.jit
def _add(logits, target, state, rows, width, stride, BLOCK: tl.constexpr):
    """Add one row of a tile to its sums; the formulas are those of `tile.Sums`."""
    row = tl.program_id(0)
    start = logits + row.to(tl.int64) * stride
    m = tl.load(state + row)
    s0 = tl.load(state + rows + row)
    s1 = tl.load(state + 2 * rows + row)
    q0 = tl.load(state + 3 * rows + row)
    q1 = tl.load(state + 4 * rows + row)
    q2 = tl.load(state + 5 * rows + row)
    for first in range(0, width, BLOCK):
        column = first + tl.arange(0, BLOCK)
        z = tl.load(start + column, mask=column < width, other=FLOOR)
        maximum = tl.maximum(m, tl.max(z, 0))
        d = m - maximum
        factor = tl.exp(d)
        z = z - maximum
        e = tl.exp(z)
        weighted = e * z
        q2 = factor * factor * (q2 + d * (2 * q1 + d * q0)) + tl.sum(weighted * weighted, 0)
        q1 = factor * factor * (q1 + d * q0) + tl.sum(e * weighted, 0)
        q0 = factor * factor * q0 + tl.sum(e * e, 0)
        s1 = factor * (s1 + d * s0) + tl.sum(weighted, 0)
        s0 = factor * s0 + tl.sum(e, 0)
        m = maximum
    tl.store(state + row, m)
    tl.store(state + rows + row, s0)
    tl.store(state + 2 * rows + row, s1)
    tl.store(state + 3 * rows + row, q0)
    tl.store(state + 4 * rows + row, q1)
    tl.store(state + 5 * rows + row, q2)
    y = tl.load(target + row)
    inside = (y >= 0) & (y < width)
    tl.store(state + 6 * rows + row, tl.load(start + y, mask=inside), mask=inside)


@triton.jit
def _gradient(
    logits,
    target,
    per_row,
    grad,
    rows,
    width,
    stride,
    grad_stride,
    BLOCK: tl.constexpr,
):
    """Write one block of columns of a row: g_y (1[a = y] - p_a) - g_H p_a (log p_a + H)."""
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    valid = column < width
    maximum = tl.load(per_row + row)
    log_s0 = tl.load(per_row + rows + row)
    entropy = tl.load(per_row + 2 * rows + row)
    grad_logprob = tl.load(per_row + 3 * rows + row)
    grad_entropy = tl.load(per_row + 4 * rows + row)
    z = tl.load(logits + row.to(tl.int64) * stride + column, mask=valid, other=FLOOR)
    # Not z - (maximum + log_s0), which would round.
    logprob = (z - maximum) - log_s0
    result = -tl.exp(logprob) * (grad_logprob + grad_entropy * (logprob + entropy))
    result += tl.where(column == tl.load(target + row), grad_logprob, 0.0)
    place = grad + row.to(tl.int64) * grad_stride + column
    tl.store(place, result.to(grad.dtype.element_ty), mask=valid)
