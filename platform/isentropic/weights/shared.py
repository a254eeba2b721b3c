"""Hands a bucket to other processes of this machine through memory, instead of a copy for each."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from isentropic.weights.buckets import Bucket, TensorMeta
from isentropic.weights.parcels import aligned


@dataclass(frozen=True, slots=True)
class SharedBucket:
    """A bucket in memory that another process of the same user maps by its path."""

    path: str
    metas: tuple[TensorMeta, ...]
    spans: tuple[tuple[int, int], ...]  # first byte and number of bytes, of each tensor

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields what `Bucket.tensors` does, read in place; they stay valid after the sender ends."""
        memory = np.memmap(self.path, dtype=np.uint8, mode="r")
        data = tuple(memory[start : start + size] for start, size in self.spans)
        return Bucket(self.metas, data).tensors()


@contextmanager
def in_shared_memory(bucket: Bucket) -> Iterator[SharedBucket]:
    """Copies a bucket into memory that has a path, for as long as the context is open.

    The memory has no name in any folder: it is gone when the last process that maps it has ended,
    also after a kill.
    """
    spans: list[tuple[int, int]] = []
    descriptor = os.memfd_create("isentropic-weights")
    with open(descriptor, "wb") as file:
        for raw in bucket.data:
            file.seek(aligned(file.tell()))
            spans.append((file.tell(), raw.nbytes))
            file.write(raw)
        file.flush()
        yield SharedBucket(f"/proc/{os.getpid()}/fd/{descriptor}", bucket.metas, tuple(spans))
