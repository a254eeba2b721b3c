"""Who has the GPUs that engines and learner ranks share: one side works, the other has left.

                the ranks' state leaves; the engines take memory as they load weights
    RANKS     ----------------------------------------------------------------------->  ENGINES
              <-----------------------------------------------------------------------
                the engines give up weights and cache; the ranks' state comes back

Whoever is called takes the GPUs, after the calls of the other side have ended. At the start the
ranks have them: engines start first, on an empty GPU, and sleep before a rank is built.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from isentropic.controller.protocols import LearnerGroup, RolloutPool


class Movable(LearnerGroup, Protocol):
    """Learner ranks whose state can leave the GPU."""

    async def offload(self) -> None:
        """Moves the state to the host; no other call comes before `restore`."""
        ...

    async def restore(self) -> None:
        """Moves the state back."""
        ...


class Turns:
    """The owner of the GPUs, and the only one who calls `sleep`, `offload` and `restore`."""

    def __init__(self, pool: RolloutPool, ranks: Movable) -> None:
        self._pool = pool
        self._ranks = ranks
        self._engines_have_it = False
        # Held while either side takes the GPUs or works in one call.
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def engines(self) -> AsyncIterator[None]:
        async with self._lock:
            if not self._engines_have_it:
                await self._ranks.offload()
                self._engines_have_it = True
            yield

    @asynccontextmanager
    async def ranks(self) -> AsyncIterator[None]:
        async with self._lock:
            if self._engines_have_it:
                await self._pool.sleep()
                await self._ranks.restore()
                self._engines_have_it = False
            yield


def taking_turns(pool: RolloutPool, ranks: Movable) -> tuple[RolloutPool, LearnerGroup]:
    """Returns the two, so that each takes the GPUs before a call that needs them.

    The engines must be asleep.
    """
    turns = Turns(pool, ranks)
    return (
        # What the engines generate comes after a load.
        _InTurn(pool, turns.engines, lambda name: name == "load_weights"),
        # While a copy of the state is written, the GPU is free.
        _InTurn(ranks, turns.ranks, lambda name: name != "end_save"),
    )


async def start_in_turn(
    engines: Awaitable[Any], pool: RolloutPool, ranks: Callable[[], Awaitable[Any]]
) -> None:
    """Waits for the engines, lets them sleep, and only then builds the ranks.

    An engine that finds a rank's memory on its GPU refuses to start.
    """
    await engines
    await pool.sleep()
    await ranks()


class _InTurn:
    """`side`, whose coroutines that `needs` the GPU, by name, run inside `turn`."""

    def __init__(
        self,
        side: Any,
        turn: Callable[[], AbstractAsyncContextManager[None]],
        needs: Callable[[str], bool],
    ) -> None:
        self._side = side
        self._turn = turn
        self._needs = needs

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._side, name)
        if not (inspect.iscoroutinefunction(found) and self._needs(name)):
            return found

        async def in_turn(*arguments: Any, **named: Any) -> Any:
            async with self._turn():
                return await found(*arguments, **named)

        return in_turn
