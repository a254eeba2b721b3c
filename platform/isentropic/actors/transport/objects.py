"""Moves weights through Ray's object store: written once by rank 0, read in place by engines."""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import ray
from ray.exceptions import ObjectLostError

from isentropic.actors.transport import Loaded, Place
from isentropic.controller.protocols import LearnerLost
from isentropic.weights.buckets import Bucket

FETCH_S = 600.0  # for one bucket to arrive from another machine


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """Implements `transport.Published`. The objects live as long as someone holds this."""

    policy_version: int
    refs: tuple[ray.ObjectRef, ...]
    seconds: dict[str, float]

    async def load_into(self, engines: Sequence[Place]) -> list[Loaded | BaseException]:
        return await asyncio.gather(*map(self._load, engines), return_exceptions=True)

    def settled(self) -> None:
        """Does nothing: Ray counts who holds the objects."""

    async def _load(self, engine: Place) -> Loaded:
        try:
            return await engine.asked(
                engine.actor.load_weights.remote(self), "loading weights", engine.startup_s
            )
        except ObjectLostError as error:
            raise LearnerLost(
                f"{engine.name} cannot load weights that died with their learner: {error}"
            ) from error


class RemoteBuckets:
    """Reads the buckets one at a time, as often as needed; on the learner's machine uncopied."""

    def __init__(self, published: PublishedWeights) -> None:
        self._refs = published.refs

    def __iter__(self) -> Iterator[Bucket]:
        for ref in self._refs:
            yield ray.get(ref, timeout=FETCH_S)


def publish(policy_version: int, buckets: Iterable[Bucket]) -> PublishedWeights:
    """Puts each bucket as it is filled, so that at most one is held twice."""
    refs = []
    sending = 0.0
    start = time.perf_counter()
    for bucket in buckets:
        filled = time.perf_counter()
        refs.append(ray.put(bucket))
        sending += time.perf_counter() - filled
    seconds = {"gather_s": time.perf_counter() - start - sending, "send_s": sending}
    return PublishedWeights(policy_version, tuple(refs), seconds)
