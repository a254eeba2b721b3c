"""Packs weights as raw bytes in buckets, to travel from the learner to an engine.

A bucket holds whole tensors as one-dimensional uint8 views, and what is needed to read and to check
them. As bytes, any dtype (bfloat16 too, which numpy lacks) goes through shared memory without a
copy.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isentropic.weights.groups import in_groups

# Shared memory is read-only, and torch warns that writing to it is undefined; nothing here writes.
warnings.filterwarnings("ignore", message="The given NumPy array is not writ")

BUCKET_BYTES = 1 << 30  # a tensor that is larger has a bucket of its own


@dataclass(frozen=True, slots=True)
class TensorMeta:
    """Name, shape and dtype of a tensor, and a checksum of its bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # as in torch, without "torch."
    checksum: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tensors of `BUCKET_BYTES` together at most, or a single larger one."""

    metas: tuple[TensorMeta, ...]
    data: tuple[NDArray[np.uint8], ...]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, tensor) in order; they share memory with `data`: do not write to them."""
        for meta, raw in zip(self.metas, self.data, strict=True):
            yield meta.name, _view(raw, meta)


def fill_buckets(
    named: Iterable[tuple[str, Tensor]], dtype: torch.dtype, limit: int = BUCKET_BYTES
) -> Iterator[Bucket]:
    """Yields buckets, each cast to `dtype` on its device and then moved to the host.

    Raises ValueError if a tensor has a value that is not finite: an engine would serve such weights
    without a warning.
    """
    for group in in_groups(_on_host(named, dtype), lambda entry: entry[1].nbytes, limit):
        metas, data = zip(*group, strict=True)
        yield Bucket(metas, data)


def _on_host(
    named: Iterable[tuple[str, Tensor]], dtype: torch.dtype
) -> Iterator[tuple[TensorMeta, NDArray[np.uint8]]]:
    for name, tensor in named:
        cast = tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach()
        host = cast.cpu().contiguous()
        check_finite(name, host)
        raw = host.reshape(-1).view(torch.uint8).numpy()
        dtype_name = str(host.dtype).removeprefix("torch.")
        yield TensorMeta(name, tuple(host.shape), dtype_name, checksum(raw)), raw


def check_buckets(
    buckets: Iterable[Bucket], expected: dict[str, tuple[int, ...]], dtype: torch.dtype
) -> None:
    """Raises ValueError, naming the tensors, unless the buckets hold the weights in `expected`.

    Every expected name must come exactly once, with its shape and dtype, with finite values, and
    with the bytes that were published.
    """
    seen: list[str] = []
    for bucket in buckets:
        for meta, raw in zip(bucket.metas, bucket.data, strict=True):
            seen.append(meta.name)
            if meta.name in expected:
                _check_tensor(meta, raw, expected[meta.name], dtype)
    check_names(seen, expected)


def checksum(raw: NDArray[np.uint8]) -> int:
    """Sums the bytes as 64-bit words, modulo 2^64: one pass at the speed of memory."""
    whole = raw.nbytes // 8 * 8
    # Through torch, because its sum of int64 is vectorised and wraps around without a warning.
    words = torch.from_numpy(raw[:whole]).view(torch.int64).sum().item() if whole else 0
    return (words + int.from_bytes(raw[whole:].tobytes(), "little")) % (1 << 64)


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises ValueError if `tensor` holds NaN or infinity."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return
    # A NaN anywhere makes both bounds NaN.
    low, high = (bound.item() for bound in torch.aminmax(tensor))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            f"weight {name} is not finite (from {low} to {high}); it is refused and the engine "
            "keeps the weights it has. Look at grad_norm and the learning rate of the last "
            "updates, and resume from a checkpoint."
        )


def _view(raw: NDArray[np.uint8], meta: TensorMeta) -> Tensor:
    return torch.from_numpy(raw).view(getattr(torch, meta.dtype)).view(meta.shape)


def _check_tensor(
    meta: TensorMeta, raw: NDArray[np.uint8], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    check_shape(meta.name, meta.shape, meta.dtype, shape, dtype)
    if checksum(raw) != meta.checksum:
        raise ValueError(
            f"weight {meta.name} has other bytes than were published; it was damaged on the way."
        )
    check_finite(meta.name, _view(raw, meta))


def check_shape(
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    expected_shape: tuple[int, ...],
    expected_dtype: torch.dtype,
) -> None:
    """Raises ValueError unless a weight has the shape and dtype of the engine's parameter."""
    wanted = str(expected_dtype).removeprefix("torch.")
    if tuple(shape) != tuple(expected_shape) or dtype != wanted:
        raise ValueError(
            f"weight {name} is {list(shape)} {dtype}, the engine's model has "
            f"{list(expected_shape)} {wanted}; learner and engines must be started from the same "
            "model."
        )


def check_names(seen: Sequence[str], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError unless every expected name was seen, exactly once, and no other."""
    problems = {
        "missing": sorted(expected.keys() - set(seen)),
        "unknown": sorted(set(seen) - expected.keys()),
        "given twice": sorted(name for name, times in Counter(seen).items() if times > 1),
    }
    complaints = [
        f"{what}: {', '.join(names[:5])} ({len(names)} in all)"
        for what, names in problems.items()
        if names
    ]
    if complaints:
        raise ValueError(
            f"the published weights do not fit the engine's model. {'; '.join(complaints)}. "
            "Names are those of the Hugging Face model's named_parameters(), a tied output layer "
            "once."
        )
