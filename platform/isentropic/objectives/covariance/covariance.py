"""The covariance of Clip-Cov and KL-Cov, and how many tokens they pick (arXiv:2505.22617)."""

import torch
from torch import Tensor

MASK_62 = (1 << 62) - 1


def token_covariance(logprob: Tensor, advantage: Tensor) -> Tensor:
    """[N] cov_t = (A_t - mean A)(logprob_t - mean logprob), the means over a whole minibatch."""
    if not logprob.numel():
        return torch.zeros_like(logprob)
    logprob = logprob.detach()
    return (advantage - advantage.mean()) * (logprob - logprob.mean())


def picked(share: float, tokens: int) -> int:
    """Count how many of `tokens` are picked: at least one, if there is any."""
    return min(tokens, max(1, int(share * tokens)))


def token_hash(seed: int, tokens: int, device: torch.device) -> Tensor:
    """[N] 62-bit hashes of (seed, position): equal on every machine, device and number of ranks.

    The mixer of splitmix64 in wrapping int64 arithmetic.
    """
    mixed = torch.arange(tokens, dtype=torch.int64, device=device) * _signed(0x9E3779B97F4A7C15)
    mixed = mixed + _signed((seed * 0xD1342543DE82EF95 + 0x632BE59BD9B4E019) % (1 << 64))
    mixed = (mixed ^ _shift(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shift(mixed, 27)) * _signed(0x94D049BB133111EB)
    return (mixed ^ _shift(mixed, 31)) & MASK_62


def _shift(value: Tensor, bits: int) -> Tensor:
    """Shift to the right logically: torch's own shift copies the sign bit."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The 64-bit pattern of `value` as torch's signed int64."""
    return value - (1 << 64) if value >= 1 << 63 else value
