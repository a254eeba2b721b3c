"""Parcels keep every byte, and say what is wrong with weights that do not fit."""

import pytest
import torch

from isentropic.weights.buckets import checksum
from isentropic.weights.parcels import (
    Layout,
    check_layout,
    check_parcel,
    checksums,
    fill_parcels,
    lay_out,
    open_parcel,
)

SHAPES = {"a": (2, 3), "b": (5,), "c": (1,)}


def named(**changes) -> list:
    tensors = {
        name: torch.randn(shape, generator=torch.Generator().manual_seed(index))
        for index, (name, shape) in enumerate(SHAPES.items())
    }
    return list({**tensors, **changes}.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tensor_comes_back(dtype):
    layout = lay_out(SHAPES, dtype)
    [parcel] = fill_parcels(named(), layout)
    check_parcel(parcel.flat, layout.parcels[0], parcel.checksums)
    opened = list(open_parcel(parcel.flat, layout.parcels[0], layout.dtype))
    for (name, tensor), (wanted_name, wanted) in zip(opened, named(), strict=True):
        assert name == wanted_name
        torch.testing.assert_close(tensor, wanted.to(dtype), rtol=0, atol=0)


def test_the_layout_travels_as_text():
    layout = lay_out(SHAPES, torch.bfloat16, limit=128)
    assert Layout.from_json(layout.to_json()) == layout


def test_a_parcel_holds_whole_tensors_up_to_the_limit():
    """Each tensor takes a multiple of 64 bytes."""
    assert [len(slots) for slots in lay_out(SHAPES, torch.float32, limit=128).parcels] == [2, 1]
    assert [len(slots) for slots in lay_out(SHAPES, torch.float32, limit=1).parcels] == [1, 1, 1]


def test_a_checksum_is_that_of_the_bytes():
    """The sum over a slot, zeros after the tensor and all, is the host's sum over its bytes."""
    layout = lay_out(SHAPES, torch.bfloat16)
    [parcel] = fill_parcels(named(), layout)
    for (_, tensor), total in zip(named(), parcel.checksums, strict=True):
        raw = tensor.to(torch.bfloat16).reshape(-1).view(torch.uint8).numpy()
        assert checksum(raw) == total


def test_a_changed_bit_is_named():
    layout = lay_out(SHAPES, torch.float32)
    [parcel] = fill_parcels(named(), layout)
    parcel.flat[layout.parcels[0][1].start + 3] ^= 1
    assert checksums(parcel.flat, layout.parcels[0]) != parcel.checksums
    with pytest.raises(ValueError, match="weight b has other bytes than were published"):
        check_parcel(parcel.flat, layout.parcels[0], parcel.checksums)


def test_published_weights_are_finite():
    bad = named(b=torch.tensor([1.0, 2.0, float("nan"), 4.0, 5.0]))
    with pytest.raises(ValueError, match="weight b is not finite"):
        list(fill_parcels(bad, lay_out(SHAPES, torch.float32)))


@pytest.mark.parametrize(
    ("shapes", "dtype", "message"),
    [
        pytest.param(
            {**SHAPES, "b": (6,)}, torch.float32, r"weight b is \[6\] float32", id="shape"
        ),
        pytest.param(SHAPES, torch.bfloat16, "weight a is .* bfloat16", id="dtype"),
        pytest.param({"a": (2, 3), "b": (5,)}, torch.float32, r"missing: c \(1", id="missing"),
        pytest.param({**SHAPES, "d": (1,)}, torch.float32, r"unknown: d \(1", id="unknown"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_comes(shapes, dtype, message):
    with pytest.raises(ValueError, match=message):
        check_layout(lay_out(shapes, dtype), SHAPES, torch.float32)
