"""What works on the tiles of the token statistics: torch, torch compiled, or Triton kernels."""

import logging
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from isentropic.objectives.tokens import tile

HEADS = ("auto", "torch", "compiled", "triton")
log = logging.getLogger(__name__)


class Head(NamedTuple):
    """Both halves of the work on a tile; all heads agree up to rounding."""

    sums: Callable[[Tensor], tile.Sums]  # of the rows of a first tile; has `add`
    gradient: Callable[..., Tensor]  # as `tile.gradient`


TORCH = Head(tile.Sums, tile.gradient)


def choose_head(name: str, device: str) -> Head:
    """Return the head of this name for tensors on `device`, "cuda" or "cpu".

    `auto` takes the kernels on a GPU, and torch elsewhere and if the kernels do not run, which is
    logged once.

    Raises:
        ValueError: for an unknown name, or `triton` where its kernels cannot run.
    """
    if name not in HEADS:
        raise ValueError(f"learner.head must be one of {', '.join(HEADS)}; got {name!r}.")
    if name == "compiled":
        return _compiled()
    if name == "triton":
        return _kernels_on(device)
    return _kernels_or_torch() if name == "auto" and device == "cuda" else TORCH


@cache
def _compiled() -> Head:
    class CompiledSums(tile.Sums):
        add = torch.compile(tile.Sums.add, dynamic=True)

    return Head(CompiledSums, torch.compile(tile.gradient, dynamic=True))


def _kernels_on(device: str) -> Head:
    try:
        import triton
    except ImportError as error:
        raise ValueError(
            "learner.head=triton needs the package triton, which is not installed here. Write auto."
        ) from error
    if device != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError(
            f"learner.head=triton needs a GPU, but the learner runs on {device}. Write auto, which "
            "uses the kernels on GPUs only."
        )
    from isentropic.objectives.tokens import kernels

    return Head(kernels.KernelSums, kernels.gradient)


@cache
def _kernels_or_torch(device: str = "cuda") -> Head:
    """Try both kernels on one row: they compile on first use, which a GPU may be too old for."""
    try:
        head = _kernels_on(device)
        row = torch.zeros(1, 8, device=device)
        target = torch.zeros(1, dtype=torch.int64, device=device)
        head.sums(row).add(row, target)
        norm = torch.zeros(2, 1, device=device)
        ones = torch.ones(1, device=device)
        head.gradient(
            row, norm, target, ones, ones, ones, scale=1.0, dtype=torch.bfloat16
        ).sum().item()
    except Exception as error:
        log.warning(
            "the Triton kernels of the token statistics do not run here, so torch does their work: "
            "slower, with the same results. The error: %s",
            error,
        )
        return TORCH
    return head
