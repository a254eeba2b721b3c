"""Puts all engines behind awaitables. Engines may die; no request is lost or doubled."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import ray
from ray.exceptions import RayActorError

from isentropic.actors.dispatch import Dispatch
from isentropic.actors.engine_handle import EngineHandle
from isentropic.actors.transport import Loaded, Published
from isentropic.controller.protocols import WaitError
from isentropic.records import Completion, Request, Usage
from isentropic.weights.channel import RoundBroken

log = logging.getLogger(__name__)

T = TypeVar("T")


class RayRolloutPool:
    """Implements `protocols.RolloutPool` over Ray.

    Engines draw from one list of prompts, so that none is idle while work is left. What a dead or
    hung engine had not answered goes back to the list, with the same seeds: whoever answers, the
    tokens are the same.

    Args:
        handles: one per engine.
        max_num_seqs: requests that an engine runs at once; it is given half as many more, to start
            when one ends.
        timeout_s: deadline of one `generate`.
        max_restarts: of all engines together; one more and the run is stopped.
    """

    def __init__(
        self,
        handles: Sequence[EngineHandle],
        *,
        max_num_seqs: int,
        timeout_s: float,
        max_restarts: int,
    ) -> None:
        self.num_actors = len(handles)
        self.handles = list(handles)
        self._room = max_num_seqs * 3 // 2
        self._timeout_s = timeout_s
        self._max_restarts = max_restarts
        self._weights: Published | None = None
        self._version = 0
        self._generating = 0
        self._changed = asyncio.Condition()
        self._loading = False

    @property
    def restarts(self) -> int:
        return sum(handle.restarts for handle in self.handles)

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[list[Completion]]:
        """Yields completions as they finish: one per request, in no promised order."""
        if not requests:
            return
        async with self._while_generating():
            dispatch = Dispatch(
                self.handles,
                requests,
                policy_version=self._version,
                room=self._room,
                timeout_s=self._timeout_s,
                revive=self.revive,
            )
            try:
                async for completions in dispatch.run():
                    yield completions
            finally:
                await dispatch.stop()

    async def load_weights(self, weights: Published) -> dict[str, float]:
        """Waits until no request runs, then loads all engines; a dead one comes back with them.

        Returns the seconds of the phases, of the slowest engine.
        """
        async with self._alone():
            self._weights = weights
            self._version = weights.policy_version
            alive = await self._of_all(map(self._is_alive, self.handles))
            # The others were started again, with these weights.
            handles = [handle for handle, ok in zip(self.handles, alive, strict=True) if ok]
            results = await weights.load_into(handles)
            await self._of_all(map(self._mend, handles, results))
        weights.settled()
        phases = [dict(weights.seconds)]
        phases += [result.seconds for result in results if isinstance(result, Loaded)]
        names = dict.fromkeys(name for seconds in phases for name in seconds)
        return {name: max(seconds.get(name, 0.0) for seconds in phases) for name in names}

    async def sleep(self) -> None:
        async with self._alone():
            await asyncio.gather(*(handle.sleep() for handle in self.handles))

    async def take_usage(self) -> list[Usage]:
        return list(await asyncio.gather(*(handle.take_usage() for handle in self.handles)))

    async def revive(self, handle: EngineHandle) -> None:
        """Brings a dead engine back, within the budget of restarts; callers share one restart."""
        if not handle.reviving and self.restarts >= self._max_restarts:
            raise RuntimeError(
                f"{handle.name} died, and {self.restarts} restarts were made already "
                f"(cluster.max_restarts={self._max_restarts}). Look at its log for the cause; "
                "memory is the usual one."
            )
        await handle.revive(self._weights)

    def close(self) -> None:
        for handle in self.handles:
            ray.kill(handle.actor)

    async def _of_all(self, calls: Iterable[Awaitable[T]]) -> list[T]:
        """Waits for all; only then raises what went wrong with one."""
        results = await asyncio.gather(*calls, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    async def _is_alive(self, handle: EngineHandle) -> bool:
        """Returns False if the engine had to be started again; it has the weights then."""
        await handle.ready()
        try:
            await handle.answers()
        except (RayActorError, WaitError) as error:
            await self._start_again(handle, error)
            return False
        return True

    async def _mend(self, handle: EngineHandle, result: Loaded | BaseException) -> None:
        """Loads an engine again whose load went wrong through no fault of the weights."""
        if isinstance(result, RoundBroken):
            log.warning("%s is loaded again by itself: %s", handle.name, result)
            try:
                await handle.load(self._weights)
            except (RayActorError, WaitError) as error:
                await self._start_again(handle, error)
        elif isinstance(result, RayActorError | WaitError):
            await self._start_again(handle, result)
        elif isinstance(result, BaseException):
            raise result
        else:
            assert result.policy_version == self._version, (
                f"{handle.name} holds {result.policy_version}, not {self._version}"
            )

    async def _start_again(self, handle: EngineHandle, error: BaseException) -> None:
        if isinstance(error, WaitError):
            handle.kill(f"hangs ({str(error).splitlines()[0]})")
        await self.revive(handle)

    @asynccontextmanager
    async def _while_generating(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._until(lambda: not self._loading, "the engines' weights to be loaded")
            self._generating += 1
        try:
            yield
        finally:
            async with self._changed:
                self._generating -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._until(lambda: not self._loading, "another load of weights")
            self._loading = True
            try:
                await self._until(
                    lambda: self._generating == 0, "the engines to finish their requests"
                )
            except BaseException:
                self._loading = False
                raise
        try:
            yield
        finally:
            async with self._changed:
                self._loading = False
                self._changed.notify_all()

    async def _until(self, true, what: str) -> None:
        try:
            await asyncio.wait_for(self._changed.wait_for(true), self._timeout_s)
        except TimeoutError as error:
            raise WaitError(f"waited {self._timeout_s:.0f} s for {what}.") from error
