"""Moves weights through Ray's object store: written once by rank 0, read in place by engines."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import ray

from isentropic.weights.buckets import Bucket

FETCH_S = 600.0  # for one bucket to arrive from another machine


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """Implements `protocols.Weights`. The objects live as long as someone holds this."""

    policy_version: int
    refs: tuple[ray.ObjectRef, ...]


class RemoteBuckets:
    """Reads the buckets one at a time, as often as needed; on the learner's machine uncopied."""

    def __init__(self, published: PublishedWeights) -> None:
        self._refs = published.refs

    def __iter__(self) -> Iterator[Bucket]:
        for ref in self._refs:
            yield ray.get(ref, timeout=FETCH_S)


def publish(policy_version: int, buckets: Iterable[Bucket]) -> PublishedWeights:
    """Puts each bucket as it is filled, so that at most one is held twice."""
    return PublishedWeights(policy_version, tuple(ray.put(bucket) for bucket in buckets))
