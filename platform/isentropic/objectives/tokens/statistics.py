"""Log-probability, entropy and sensitivity of each response token, streamed over the vocabulary.

The five numbers of a token need its whole next-token distribution, and nothing of it has to be
kept: running sums relative to the running maximum are enough, as in the online softmax of
arXiv:1805.02867.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from isentropic.objectives.tokens.heads import choose_head
from isentropic.objectives.tokens.tile import logit_gradient

MAX_TILE = 1 << 24  # elements of one tile of logits: 64 MiB in float32
# On a GPU 512 MiB: per block of rows the whole gradient of the weight is read and written once.
CUDA_TILE = 1 << 27
CPU_BLOCK = 1 << 18  # elements that a CPU's cache keeps from one pass over them to the next
# A single tile up to this size is kept for the backward pass instead of being computed again.
MAX_KEPT = 1 << 22
# Least bias: of -inf, which bans a token, (z - m) e^(z-m) would be no number. The squares of this
# are still finite in float32.
BANNED = -1e12


class TokenStatistics(NamedTuple):
    """[N] each, in float32 (float64 for float64 inputs), at the temperature that was given."""

    logprob: Tensor  # nats; differentiable
    entropy: Tensor  # nats, over the full vocabulary; differentiable
    sensitivity: Tensor  # S, below; constant
    sum_p2: Tensor  # sum over the vocabulary of p^2; constant
    sum_s2: Tensor  # squared length of the entropy's gradient by the logits, below; constant


def token_statistics(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    temperature: float,
    vocab_chunk: int,
    bias: Tensor | None = None,
    head: str = "torch",
) -> TokenStatistics:
    """Compute statistics of p = softmax((hidden @ weight^T + bias) / temperature) per target token.

        logprob     = log p_y
        entropy     = H = -sum_a p_a log p_a
        sensitivity = S = p_y (log p_y + H) - sum_a p_a^2 (log p_a + H)
        sum_p2      = sum_a p_a^2
        sum_s2      = sum_a s_a^2,  s_a = p_a (log p_a + H) = -dH / dz_a,  z the logits

    A gradient step of weight w on log p_y moves the entropy by dH = -eta w S to first order
    (CE-GPPO, arXiv:2509.20712; T of PAPO is -S); one of weight w on H itself moves it by
    eta w sum_s2. Gradients flow through `logprob` and `entropy`,
    both exactly. Never more than one tile of logits exists, not even in the backward pass; its
    gradients are summed in float32.

    Args:
        hidden: [N, D] states that predict the targets; N may be 0.
        weight: [V, D] output layer.
        target: [N] token ids in [0, V).
        temperature: > 0, divides the logits.
        vocab_chunk: columns of a tile, at most.
        bias: [V] of the output layer, if it has one; -inf bans a token.
        head: what works on the tiles, as in `heads.choose_head`.
    """
    if not temperature > 0:
        raise ValueError(
            f"temperature must be > 0, got {temperature}. "
            "Greedy sampling has no distribution to score."
        )
    return TokenStatistics(
        *_TokenStatistics.apply(hidden, weight, bias, target, 1.0 / temperature, vocab_chunk, head)
    )


class _TokenStatistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, target, scale, vocab_chunk, head):
        bias = None if bias is None else bias.clamp(min=BANNED)
        head = choose_head(head, hidden.device.type)
        kept = None
        if weight.shape[0] <= vocab_chunk and hidden.shape[0] * weight.shape[0] <= MAX_KEPT:
            kept, statistics = _whole(_logits(hidden, weight, bias, scale), target)
            norm = None
        else:
            norm, statistics = _streamed(hidden, weight, bias, target, scale, vocab_chunk, head)
        ctx.save_for_backward(hidden, weight, bias, target, statistics.entropy, norm, kept)
        ctx.scale = scale
        ctx.vocab_chunk = vocab_chunk
        ctx.head = head
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*statistics[2:])
        return tuple(statistics)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logprob, grad_entropy, *_):
        hidden, weight, bias, target, entropy, norm, kept = ctx.saved_tensors
        if grad_logprob is None and grad_entropy is None:
            return (None,) * 7
        sums = _Gradients(ctx.needs_input_grad, hidden, weight, bias)
        if kept is not None:
            grad = logit_gradient(kept, target, grad_logprob, grad_entropy, entropy)
            everything = (slice(0, hidden.shape[0]), slice(0, weight.shape[0]))
            sums.add(grad.mul_(ctx.scale), *everything, hidden, weight)
            return *sums.result(), None, None, None, None
        for rows, columns in _tiles(hidden, weight.shape[0], ctx.vocab_chunk):
            part = None if bias is None else bias[columns]
            grad = ctx.head.gradient(
                _logits(hidden[rows], weight[columns], part, ctx.scale),
                norm[:, rows],
                target[rows] - columns.start,
                None if grad_logprob is None else grad_logprob[rows],
                None if grad_entropy is None else grad_entropy[rows],
                entropy[rows],
                scale=ctx.scale,
                # The bias sums them: in half precision it would lose what they were rounded by.
                dtype=norm.dtype if ctx.needs_input_grad[2] else hidden.dtype,
            )
            sums.add(grad, rows, columns, hidden, weight)
        return *sums.result(), None, None, None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """[N, C] logits of one tile over the temperature, in float32 or better."""
    logits = _matmul(hidden, weight.t())
    if bias is not None:
        logits += bias
    return logits.mul_(scale) if scale != 1.0 else logits


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    """left @ right, in float32 for half-precision operands: bfloat16 would round by up to 2^-8."""
    if left.dtype not in (torch.bfloat16, torch.float16):
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    if left.dtype == torch.float16:
        return left.float() @ right.float()
    with _bfloat16_products():
        return left.float() @ right.float()


@contextmanager
def _bfloat16_products() -> Iterator[None]:
    """Lets a CPU with AMX multiply float32 as bfloat16: exact for what was bfloat16 before."""
    matmul = torch.backends.mkldnn.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _whole(logits: Tensor, target: Tensor) -> tuple[Tensor, TokenStatistics]:
    """Compute the statistics from logits [N, V] at once; return the logprobs [N, V] too."""
    logprobs = logits.log_softmax(-1)
    p = logprobs.exp()
    entropy = -torch.linalg.vecdot(p, logprobs)
    sum_p2 = torch.linalg.vecdot(p, p)
    correction = torch.linalg.vecdot(p.square(), logprobs) + sum_p2 * entropy
    logprob = logprobs.gather(1, target[:, None])[:, 0]
    logprob = logprob.clone()  # FSDP warns of outputs that are views
    sensitivity = logprob.exp() * (logprob + entropy) - correction
    slope = p.mul_(logprobs + entropy[:, None])
    sum_s2 = torch.linalg.vecdot(slope, slope)
    return logprobs, TokenStatistics(logprob, entropy, sensitivity, sum_p2, sum_s2)


def _streamed(
    hidden, weight, bias, target, scale, vocab_chunk, head
) -> tuple[Tensor, TokenStatistics]:
    """Compute the statistics tile by tile; return [2, N] too: the maximum and log s0.

    The two stay apart because their sum would round.
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    norm = hidden.new_empty((2, hidden.shape[0]), dtype=dtype)
    logprob, entropy, sensitivity, sum_p2, sum_s2 = (torch.empty_like(norm[0]) for _ in range(5))
    sums = []
    for rows, columns in _tiles(hidden, weight.shape[0], vocab_chunk):
        part = None if bias is None else bias[columns]
        logits = _logits(hidden[rows], weight[columns], part, scale)
        if columns.start == 0:
            size = logits.shape[0] if logits.is_cuda else max(1, CPU_BLOCK // logits.shape[1])
            sums = [head.sums(block) for block in logits.split(size)]
        local_target = target[rows] - columns.start
        for running, block, targets in zip(
            sums, logits.split(size), local_target.split(size), strict=True
        ):
            running.add(block, targets)
        if columns.stop < weight.shape[0]:
            continue
        maximum, s0, s1, q0, q1, q2, picked = (
            torch.cat([getattr(running, name) for running in sums])
            for name in ("maximum", "s0", "s1", "q0", "q1", "q2", "picked")
        )
        picked = picked - maximum
        mean = s1 / s0  # of z - m under p; log p_a + H = (z_a - m) - mean
        log_s0 = s0.log()
        norm[0, rows] = maximum
        norm[1, rows] = log_s0
        logprob[rows] = picked - log_s0
        entropy[rows] = log_s0 - mean
        sum_p2[rows] = q0 / s0.square()
        sensitivity[rows] = (picked - log_s0).exp() * (picked - mean) - (
            q1 - q0 * mean
        ) / s0.square()
        # Rounding may take a sum that is 0 below it.
        spread = q2 - 2 * mean * q1 + mean.square() * q0
        sum_s2[rows] = spread.clamp(min=0) / s0.square()
    return norm, TokenStatistics(logprob, entropy, sensitivity, sum_p2, sum_s2)


class _Gradients:
    """Sums of the gradients over tiles, in float32 or better; None for an input that needs none."""

    def __init__(self, needed, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        inputs = (hidden, weight, bias)
        self.inputs = inputs
        self.sums = [
            torch.zeros_like(tensor, dtype=dtype) if need else None
            for tensor, need in zip(inputs, needed[:3], strict=True)
        ]

    def add(
        self, grad: Tensor, rows: slice, columns: slice, hidden: Tensor, weight: Tensor
    ) -> None:
        """Add what the logit gradients [R, C] of one tile give."""
        grad_hidden, grad_weight, grad_bias = self.sums
        if grad_bias is not None:
            grad_bias[columns] += grad.sum(0)
        grad = grad.to(hidden.dtype)
        if grad_hidden is not None:
            grad_hidden[rows] += _matmul(grad, weight[columns])
        if grad_weight is not None:
            grad_weight[columns] += _matmul(grad.t(), hidden[rows])

    def result(self) -> list[Tensor | None]:
        return [
            None if total is None else total.to(tensor.dtype)
            for total, tensor in zip(self.sums, self.inputs, strict=True)
        ]


def _tiles(hidden: Tensor, num_columns: int, vocab_chunk: int) -> Iterator[tuple[slice, slice]]:
    """Yield row blocks, and inside each the vocabulary chunks from first to last."""
    num_rows = hidden.shape[0]
    chunk = min(vocab_chunk, num_columns)
    block = max(1, (CUDA_TILE if hidden.is_cuda else MAX_TILE) // chunk)
    for row in range(0, num_rows, block):
        rows = slice(row, min(row + block, num_rows))
        for column in range(0, num_columns, chunk):
            yield rows, slice(column, min(column + chunk, num_columns))
