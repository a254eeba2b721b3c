"""How many checks run at a time, over all calls, and where."""

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Protocol

from isentropic.tasks.grading.outcome import Outcome
from isentropic.tasks.grading.worker import Item


class Place(Protocol):
    """Where checks are made: walled workers of this node, or of another one."""

    lanes: int  # checks at a time

    async def check(self, batch: Sequence[Item], timeout_s: float) -> list[Outcome]:
        """Returns the batch's outcomes. Raises PlaceLost if the place itself is gone."""

    def close(self) -> None:
        """Ends its workers."""


class PlaceLost(RuntimeError):
    """A place answers no more; what it was checking must be checked elsewhere."""


class Lanes:
    """Lends each check a lane of a place; who asks first gets one first.

    Answers are graded as they finish, so many calls wait for checks at once. What limited each call
    alone would let hundreds of checks share a few CPUs, and right ones run out of time.
    """

    def __init__(self, place: Place) -> None:
        self._free: deque[Place] = deque()
        self._waiting: deque[asyncio.Future[Place]] = deque()
        self._lost: list[Place] = []
        self.count = 0
        self.add([place])

    def add(self, places: Sequence[Place]) -> None:
        """Adds the lanes of more places, one of each in turn."""
        by_turn = zip_longest(*([place] * place.lanes for place in places))
        for place in chain.from_iterable(by_turn):
            if place is not None:
                self.count += 1
                self.give(place)

    def drop(self, place: Place) -> bool:
        """Lends no lane of a place any more; False if it did not before."""
        if place in self._lost:
            return False
        self._lost.append(place)
        self._free = deque(other for other in self._free if other is not place)
        self.count -= place.lanes
        return True

    async def take(self) -> Place:
        """Waits for a free lane; `give` returns it."""
        if self._free:
            return self._free.popleft()
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.give(waiter.result())
            raise

    def give(self, place: Place) -> None:
        """Takes a lane back, and lends it to who waits longest."""
        if place in self._lost:
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():  # done: it was given up
                waiter.set_result(place)
                return
        self._free.append(place)
