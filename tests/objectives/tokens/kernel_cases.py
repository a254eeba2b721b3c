"""Runs the Triton kernels by Triton's interpreter and prints the errors of each case as JSON.

A process of its own, because the interpreter must be chosen before Triton is imported.
"""

import json
import math
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch

from isentropic.objectives.tokens import statistics as module
from isentropic.objectives.tokens.statistics import BANNED, token_statistics

module.MAX_KEPT = 0  # else small cases never reach a kernel
NAMES = ("logprob", "entropy", "sensitivity", "sum_p2", "sum_s2")

BASE = {
    "rows": 5, "vocabulary": 130, "vocab_chunk": 64, "temperature": 1.0, "bias": False,
    "banned": 0, "spread": 1.0, "loss": "both", "dtype": torch.float64, "max_tile": 1 << 24,
}  # fmt: skip
CASES = {
    "one token in the vocabulary": {"vocabulary": 1},
    "no multiple of the chunk": {},
    "more than one block per tile": {"vocabulary": 5003, "vocab_chunk": 5003, "rows": 3},
    "last block of one column": {"vocabulary": 4097, "vocab_chunk": 4097, "rows": 2},
    "several blocks of rows": {"rows": 7, "max_tile": 2 * 64},
    "temperature": {"temperature": 0.7},
    "bias": {"bias": True, "temperature": 1.3},
    "first tile banned": {"bias": True, "banned": 70},
    "no rows": {"rows": 0},
    "sharp": {"spread": 40.0},
    "logprob only": {"loss": "logprob", "temperature": 0.5},
    "entropy only": {"loss": "entropy", "temperature": 0.5},
    "float32": {"dtype": torch.float32, "vocabulary": 999, "vocab_chunk": 500},
    "bfloat16": {"dtype": torch.bfloat16, "bias": True, "vocabulary": 999, "vocab_chunk": 500},
}  # fmt: skip


def plain(hidden, weight, bias, target, temperature):
    """The definitions in float64, with the whole softmax at hand."""
    logp = ((hidden @ weight.t() + bias) / temperature).log_softmax(-1)
    p = logp.exp()
    entropy = -(p * logp).sum(-1)
    picked = logp.gather(1, target[:, None])[:, 0]
    slope = p * (logp + entropy[:, None])
    sensitivity = picked.exp() * (picked + entropy) - (p * slope).sum(-1)
    return picked, entropy, sensitivity, (p**2).sum(-1), (slope**2).sum(-1)


def inputs(case):
    generator = torch.Generator().manual_seed(0)
    rows, vocabulary, banned = case["rows"], case["vocabulary"], case["banned"]
    hidden = case["spread"] * torch.randn(rows, 6, dtype=torch.float64, generator=generator)
    weight = torch.randn(vocabulary, 6, dtype=torch.float64, generator=generator)
    bias = torch.randn(vocabulary, dtype=torch.float64, generator=generator)
    bias[:banned] = -math.inf
    target = torch.randint(banned, vocabulary, (rows,), generator=generator)
    return [tensor.to(case["dtype"]) for tensor in (hidden, weight, bias)], target


def gradients(scored, leaves, loss, rows):
    """Of a loss that weighs every token differently."""
    weights = torch.linspace(-1, 2, rows, dtype=torch.float64)
    total = sum(
        (factor * weights.to(value.dtype) * value).sum()
        for name, factor, value in zip(("logprob", "entropy"), (1.0, -0.3), scored, strict=False)
        if loss in (name, "both")
    )
    return torch.autograd.grad(total, leaves)


def errors(case):
    """Largest error of every statistic and gradient against float64, over the largest value."""
    tensors, target = inputs(case)
    module.MAX_TILE = case["max_tile"]
    leaves = [t.requires_grad_() for t in (tensors if case["bias"] else tensors[:2])]
    got = token_statistics(
        leaves[0], leaves[1], target, temperature=case["temperature"], head="triton",
        vocab_chunk=case["vocab_chunk"], bias=leaves[2] if case["bias"] else None,
    )  # fmt: skip
    exact = [leaf.detach().double().clamp(min=BANNED).requires_grad_() for leaf in leaves]
    zero = torch.zeros(case["vocabulary"], dtype=torch.float64)
    expected = plain(
        exact[0], exact[1], exact[2] if case["bias"] else zero, target, case["temperature"]
    )
    pairs = dict(zip(NAMES, zip(got, expected, strict=True), strict=True))
    of_loss = (case["loss"], case["rows"])
    pairs |= {
        f"gradient of {name}": pair
        for name, *pair in zip(
            ("hidden", "weight", "bias"), gradients(got, leaves, *of_loss),
            gradients(expected, exact, *of_loss), strict=False,
        )
    }  # fmt: skip
    return {name: error(*pair) for name, pair in pairs.items()}


def error(got, expected):
    if not expected.numel():
        return 0.0 if got.shape == expected.shape else math.inf
    scale = max(1.0, expected.abs().max().item())
    worst = (got.double() - expected).abs().max().item() / scale
    return worst if math.isfinite(worst) else math.inf


def rows_that_are_nan():
    """Which rows of each statistic and of the gradient are no numbers, if row 1 of 3 is none."""
    hidden = torch.ones(3, 2).index_fill_(0, torch.tensor([1]), math.nan).requires_grad_()
    weight = torch.arange(20.0).view(10, 2) / 20
    got = token_statistics(
        hidden, weight, torch.tensor([0, 1, 2]), temperature=1.0, vocab_chunk=4, head="triton"
    )
    got.logprob.sum().backward()
    return [t.isnan().tolist() for t in (*got, hidden.grad.sum(-1))]


if __name__ == "__main__":
    result = {name: errors(BASE | changes) for name, changes in CASES.items()}
    json.dump({"errors": result, "nan": rows_that_are_nan()}, sys.stdout)
