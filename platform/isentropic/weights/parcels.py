"""Packs weights into flat parcels, whose layout both sides know before the first is gathered.

A parcel is one run of bytes on the device that gathered it: one transfer, however many tensors it
holds. Its checksums are computed there, and again where it arrives.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod

import torch
from torch import Tensor

from isentropic.weights.buckets import check_finite, check_names, check_shape
from isentropic.weights.groups import in_groups

PARCEL_BYTES = 1 << 28  # a tensor that is larger has a parcel of its own
ALIGN = 64  # bytes: every tensor begins where any dtype may, and ends in zeros


def aligned(byte: int) -> int:
    """Returns the first byte from `byte` on at which a tensor may begin."""
    return -(-byte // ALIGN) * ALIGN


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a tensor lies in its parcel."""

    name: str
    shape: tuple[int, ...]
    start: int  # byte
    size: int  # bytes, without the zeros up to the next slot

    @property
    def end(self) -> int:
        """The byte at which the next slot begins."""
        return aligned(self.start + self.size)


@dataclass(frozen=True, slots=True)
class Layout:
    """What lies in which parcel."""

    dtype: str  # as in torch, without "torch."
    parcels: tuple[tuple[Slot, ...], ...]

    def num_bytes(self, index: int) -> int:
        return self.parcels[index][-1].end

    def to_json(self) -> str:
        parcels = [
            [(slot.name, slot.shape, slot.start, slot.size) for slot in slots]
            for slots in self.parcels
        ]
        return json.dumps({"dtype": self.dtype, "parcels": parcels})

    @classmethod
    def from_json(cls, text: str) -> "Layout":
        values = json.loads(text)
        parcels = tuple(
            tuple(Slot(name, tuple(shape), start, size) for name, shape, start, size in slots)
            for slots in values["parcels"]
        )
        return cls(values["dtype"], parcels)


@dataclass(frozen=True, slots=True)
class Parcel:
    """The bytes of several tensors, end to end, and a checksum of each."""

    flat: Tensor  # uint8
    checksums: tuple[int, ...]


def lay_out(
    shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, limit: int = PARCEL_BYTES
) -> Layout:
    """Fills parcels up to `limit` bytes, in the order of `shapes`."""
    alone = [
        Slot(name, tuple(shape), 0, prod(shape) * dtype.itemsize) for name, shape in shapes.items()
    ]
    parcels = []
    for slots in in_groups(alone, lambda slot: slot.end, limit):
        starts = accumulate((slot.end for slot in slots[:-1]), initial=0)
        placed = zip(slots, starts, strict=True)
        parcels.append(tuple(replace(slot, start=start) for slot, start in placed))
    return Layout(str(dtype).removeprefix("torch."), tuple(parcels))


def new_zeros(size: int, device: torch.device) -> Tensor:
    """Returns `size` zero bytes on `device`."""
    return torch.zeros(size, dtype=torch.uint8, device=device)


def fill_parcels(
    named: Iterable[tuple[str, Tensor]],
    layout: Layout,
    zeros: Callable[[int, torch.device], Tensor] = new_zeros,
) -> Iterator[Parcel]:
    """Yields the parcels of `layout`, each as soon as its last tensor was gathered.

    `zeros` gives the memory of each when its first tensor was gathered: that of the one before, if
    whoever reads them is done with it. Raises ValueError if a tensor has a value that is not finite.
    """
    dtype = getattr(torch, layout.dtype)
    tensors = iter(named)
    for index, slots in enumerate(layout.parcels):
        flat = None
        for slot in slots:
            name, tensor = next(tensors)
            assert (name, tuple(tensor.shape)) == (slot.name, slot.shape), (
                f"gathered {name}, not {slot}"
            )
            value = tensor.detach().to(dtype).contiguous()
            check_finite(name, value)
            if flat is None:
                flat = zeros(layout.num_bytes(index), value.device)
            flat[slot.start : slot.start + slot.size] = value.reshape(-1).view(torch.uint8)
        yield Parcel(flat, checksums(flat, slots))


def checksums(flat: Tensor, slots: Sequence[Slot]) -> tuple[int, ...]:
    """Sums the words of each tensor as `buckets.checksum` does, on the device; one copy to the host."""
    words = flat.view(torch.int64)
    sums = [words[slot.start // 8 : slot.end // 8].sum() for slot in slots]
    return tuple(total % (1 << 64) for total in torch.stack(sums).tolist())


def open_parcel(flat: Tensor, slots: Sequence[Slot], dtype: str) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor); they share memory with `flat`."""
    for slot in slots:
        raw = flat[slot.start : slot.start + slot.size]
        yield slot.name, raw.view(getattr(torch, dtype)).view(slot.shape)


def check_parcel(flat: Tensor, slots: Sequence[Slot], published: Sequence[int]) -> None:
    """Raises ValueError, naming the tensors, unless `flat` holds the bytes that were published."""
    found = checksums(flat, slots)
    damaged = [
        slot.name
        for slot, here, there in zip(slots, found, published, strict=True)
        if here != there
    ]
    if damaged:
        raise ValueError(
            f"weight {', '.join(damaged[:5])} has other bytes than were published; it was damaged "
            "on the way."
        )


def check_layout(
    layout: Layout, expected: Mapping[str, tuple[int, ...]], dtype: torch.dtype
) -> None:
    """Raises ValueError, naming the tensors, unless the parcels will hold the weights in `expected`."""
    slots = [slot for slots in layout.parcels for slot in slots]
    for slot in slots:
        if slot.name in expected:
            check_shape(slot.name, slot.shape, layout.dtype, expected[slot.name], dtype)
    check_names([slot.name for slot in slots], expected)
