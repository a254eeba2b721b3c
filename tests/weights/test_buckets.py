"""Buckets keep every byte, and say what is wrong with weights that do not fit."""

import numpy as np
import pytest
import torch

from isentropic.weights.buckets import BUCKET_BYTES, check_buckets, checksum, fill_buckets

SHAPES = {"a": (2, 3), "b": (5,), "c": (1,)}


def named(**changes) -> list:
    tensors = {
        name: torch.arange(1.0, 1 + np.prod(shape)).reshape(shape) for name, shape in SHAPES.items()
    }
    return list({**tensors, **changes}.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tensor_comes_back(dtype):
    buckets = list(fill_buckets(named(), dtype))
    for (name, tensor), (wanted_name, wanted) in zip(
        [pair for bucket in buckets for pair in bucket.tensors()], named(), strict=True
    ):
        assert name == wanted_name
        torch.testing.assert_close(tensor, wanted.to(dtype), rtol=0, atol=0)
    check_buckets(buckets, SHAPES, dtype)


def test_a_bucket_holds_whole_tensors_up_to_the_limit():
    assert [len(bucket.metas) for bucket in fill_buckets(named(), torch.float32, limit=24)] == [
        1,
        2,
    ]  # 24 | 20 + 4
    assert [len(bucket.metas) for bucket in fill_buckets(named(), torch.float32, limit=1)] == [
        1,
        1,
        1,
    ]
    assert len(list(fill_buckets(named(), torch.float32, limit=BUCKET_BYTES))) == 1


def test_shared_memory_is_read_in_place():
    [bucket] = fill_buckets(named(), torch.float32)
    for raw in bucket.data:
        raw.flags.writeable = False  # as the object store gives them
    for (_, tensor), raw in zip(bucket.tensors(), bucket.data, strict=True):
        assert tensor.data_ptr() == raw.__array_interface__["data"][0]


@pytest.mark.parametrize(
    ("raw", "total"),
    [
        pytest.param([], 0, id="nothing"),
        pytest.param([1, 2], 1 + 2 * 256, id="less than a word, little-endian"),
        pytest.param([1] + [0] * 7 + [5] + [0] * 7, 6, id="two words"),
        pytest.param([255] * 8 + [3], 2, id="wraps around: -1 + 3"),
    ],
)
def test_checksum(raw, total):
    assert checksum(np.array(raw, dtype=np.uint8)) == total


def test_published_weights_are_finite():
    for bad in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(ValueError, match="weight b is not finite"):
            list(fill_buckets(named(b=torch.tensor([1.0, bad])), torch.float32))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(named()[:-1], r"missing: c \(1 in all\)", id="missing"),
        pytest.param([*named(), ("d", torch.ones(1))], "unknown: d", id="unknown"),
        pytest.param([*named(), ("a", torch.ones(2, 3))], "given twice: a", id="twice"),
        pytest.param(
            named(b=torch.ones(6)),
            r"weight b is \[6\] float32, the engine's model has \[5\]",
            id="shape",
        ),
    ],
)
def test_weights_that_do_not_fit(given, message):
    with pytest.raises(ValueError, match=message):
        check_buckets(fill_buckets(given, torch.float32), SHAPES, torch.float32)


def test_wrong_dtype_and_damage():
    buckets = list(fill_buckets(named(), torch.bfloat16))
    with pytest.raises(ValueError, match=r"bfloat16, the engine's model has .* float32"):
        check_buckets(buckets, SHAPES, torch.float32)
    buckets[0].data[1][0] ^= 1
    with pytest.raises(ValueError, match="weight b has other bytes"):
        check_buckets(buckets, SHAPES, torch.bfloat16)
