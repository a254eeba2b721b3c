"""Time, memory and error of the token statistics by torch, torch compiled, and Triton kernels.

    python benchmarks/head.py [--tokens 16384] [--vocabulary 152064] [--hidden 3584] [--heads torch,triton]

Times and memory need a GPU. Without one only the errors are measured, on a small shape, the kernels by Triton's
interpreter. An error is the largest difference from float64 over the largest value (at least 1), on the same bfloat16
inputs; the gradients' is that of their rounding to bfloat16, about 2^-9, if all is well (by the interpreter twice
that: it cuts off what a GPU rounds).
"""

import argparse
import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1] / "platform")

import torch  # noqa: E402

from isentropic.objectives.tokens import statistics  # noqa: E402
from isentropic.objectives.tokens.statistics import token_statistics  # noqa: E402

HEADS = ("torch", "compiled", "triton")
ERROR_TOKENS = 64  # of which float64 has all logits at once
SMALL = {"tokens": 6, "vocabulary": 5003, "hidden": 16, "chunk": 4800}


def inputs(tokens: int, vocabulary: int, hidden: int, device: str) -> list[torch.Tensor]:
    """Return hidden, weight and target; the entropy is some nats, as a policy's is."""
    generator = torch.Generator(device).manual_seed(0)
    make = {"device": device, "generator": generator}
    states = torch.randn(tokens, hidden, **make).bfloat16()
    weight = (torch.randn(vocabulary, hidden, **make) * (3 / hidden**0.5)).bfloat16()
    return [states, weight, torch.randint(vocabulary, (tokens,), **make)]


def scored(head: str, states, weight, target, chunk: int):
    """Forward and a loss on both differentiable statistics."""
    result = token_statistics(states, weight, target, temperature=1.0, vocab_chunk=chunk, head=head)
    return result, (result.logprob - 0.01 * result.entropy).sum()


def time_head(head: str, sizes: dict[str, int], rounds: int = 5) -> dict[str, float]:
    """Measure milliseconds of the best round, and the most GiB beyond inputs and gradients."""
    states, weight, target = inputs(sizes["tokens"], sizes["vocabulary"], sizes["hidden"], "cuda")
    states.requires_grad_()
    weight.requires_grad_()
    best = {"forward_ms": float("inf"), "backward_ms": float("inf")}
    for _ in range(rounds + 2):  # the first compile
        states.grad = weight.grad = None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        marks[0].record()
        _, loss = scored(head, states, weight, target, sizes["chunk"])
        marks[1].record()
        loss.backward()
        marks[2].record()
        torch.cuda.synchronize()
        best["forward_ms"] = min(best["forward_ms"], marks[0].elapsed_time(marks[1]))
        best["backward_ms"] = min(best["backward_ms"], marks[1].elapsed_time(marks[2]))
    gradients = states.grad.nbytes + weight.grad.nbytes
    extra = torch.cuda.max_memory_allocated() - before - gradients
    return best | {"memory_gib": extra / 2**30}


def head_errors(head: str, sizes: dict[str, int], device: str) -> dict[str, float]:
    """Compare with float64: the statistics, and both gradients."""
    tokens = min(ERROR_TOKENS, sizes["tokens"])
    *given, target = inputs(tokens, sizes["vocabulary"], sizes["hidden"], device)
    results = {}
    for name, dtype in ((head, torch.bfloat16), ("torch", torch.float64)):
        leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in given]
        result, loss = scored(name, *leaves, target, sizes["chunk"])
        loss.backward()
        results[dtype] = (*(tensor.detach() for tensor in result), *(leaf.grad for leaf in leaves))
    names = (*statistics.TokenStatistics._fields, "grad_hidden", "grad_weight")
    return {
        f"{name}_error": (got.double() - exact).abs().max().item()
        / max(1.0, exact.abs().max().item())
        for name, got, exact in zip(names, *results.values(), strict=True)
    }


def measure(heads, sizes: dict[str, int]) -> dict[str, dict[str, float]]:
    """Measure each head: errors, and on a GPU time and memory too."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    statistics.MAX_KEPT = 0  # else a small shape is one whole softmax, by torch
    timed = time_head if device == "cuda" else lambda *_: {}
    return {head: timed(head, sizes) | head_errors(head, sizes, device) for head in heads}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--vocabulary", type=int, default=152064)
    parser.add_argument("--hidden", type=int, default=3584)
    parser.add_argument("--chunk", type=int, default=16384)
    parser.add_argument("--heads", default=",".join(HEADS), help="names, with commas between them")
    given = parser.parse_args()
    sizes = {name: getattr(given, name) for name in SMALL}
    if not torch.cuda.is_available():
        sizes = SMALL
        os.environ["TRITON_INTERPRET"] = "1"  # before the kernels import Triton
        print(f"no GPU here: time and memory need one. Errors alone, on a small shape: {sizes}")
    for head, numbers in measure(given.heads.split(","), sizes).items():
        print(f"{head:<10}" + "  ".join(f"{name} {value:.3g}" for name, value in numbers.items()))


if __name__ == "__main__":
    main()
