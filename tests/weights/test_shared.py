"""What another process reads through shared memory is what was published, and nothing stays behind."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from isentropic.weights.buckets import Bucket, TensorMeta, fill_buckets
from isentropic.weights.shared import in_shared_memory

NAMED = [
    ("odd", torch.arange(3, dtype=torch.int8)),
    ("aligned", torch.linspace(-1, 1, 77).reshape(7, 11)),
    ("last", torch.arange(5.0)),
]


@pytest.fixture
def bucket():
    [bucket] = fill_buckets(NAMED, torch.bfloat16)
    return bucket


def test_tensors_outlive_the_sender(bucket):
    with in_shared_memory(bucket) as shared:
        tensors = shared.tensors()
        path = shared.path
    for (name, tensor), (wanted_name, wanted) in zip(tensors, NAMED, strict=True):
        assert name == wanted_name
        kept = wanted.to(torch.bfloat16) if wanted.is_floating_point() else wanted
        torch.testing.assert_close(tensor, kept, rtol=0, atol=0)
    assert not os.path.exists(path)


def test_another_process_maps_it_by_its_path():
    raw = np.arange(1 << 20, dtype=np.uint8)
    bucket = Bucket((TensorMeta("weight", (1 << 20,), "uint8", 0),), (raw,))
    with in_shared_memory(bucket) as shared:
        code = f"import numpy; print(numpy.memmap({shared.path!r}, 'u1', 'r')[255:258].tolist())"
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "[255, 0, 1]", answer.stderr
