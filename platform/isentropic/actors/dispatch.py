"""Spreads one `generate` over all engines, and takes back what an engine that dies had left.

Several may run at once (a step, an evaluation, a probe): they share the room of each engine.
"""

import asyncio
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

from ray.exceptions import RayActorError

from isentropic.actors.engine_handle import EngineHandle
from isentropic.actors.rollout_actor import MAX_CALLS, StaleEngineError, unpack
from isentropic.controller.protocols import WaitError
from isentropic.records import Completion, Request

log = logging.getLogger(__name__)

Chunk = list[Request]  # samples of one prompt: one engine computes the prompt once
_CALLS = itertools.count()  # names of calls, by which an actor is asked to end one


class Dispatch:
    """Runs one `generate` of the pool: prompts that no engine has yet, and a task per call."""

    def __init__(
        self,
        handles: Sequence[EngineHandle],
        requests: Sequence[Request],
        *,
        policy_version: int,
        room: int,
        timeout_s: float,
        revive: Callable[[EngineHandle], Awaitable[None]],
    ) -> None:
        self._handles = handles
        self._version = policy_version
        self._room = room
        self._timeout_s = timeout_s
        self._revive = revive
        self._todo: deque[Chunk] = deque(chunks(requests, len(handles)))
        self._unanswered = len(requests)
        self._share = min(math.ceil(len(requests) / len(handles)), room)
        # Until each of these has its share, or turns out to be down, none gets more than its own.
        self._expected = {handle.index for handle in handles}
        self._results: asyncio.Queue[list[Completion] | BaseException] = asyncio.Queue()
        self._tasks: set[asyncio.Task] = set()
        # On the engines now, with what is not answered.
        self._calls: dict[int, tuple[EngineHandle, dict[int, Request]]] = {}
        # Set when there may be work for that engine.
        self._wake = {handle.index: asyncio.Event() for handle in handles}

    async def run(self) -> AsyncIterator[list[Completion]]:
        """Yields completions as they come. Raises WaitError at the deadline."""
        deadline = time.monotonic() + self._timeout_s
        for handle in self._handles:
            handle.waiting.add(self._wake[handle.index])
            self._spawn(self._serve(handle))
        while self._unanswered:
            try:
                left = max(deadline - time.monotonic(), 0.0)
                result = await asyncio.wait_for(self._results.get(), left)
            except TimeoutError as error:
                raise WaitError(self._late()) from error
            if isinstance(result, BaseException):
                raise result
            self._unanswered -= len(result)
            yield result

    async def stop(self) -> None:
        """Ends what still runs, here and on the engines."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for call, (handle, left) in self._calls.items():
            handle.actor.cancel.remote(call)
            handle.outstanding -= len(left)
        for handle in self._handles:
            handle.waiting.discard(self._wake[handle.index])
            # What this one no longer takes is room for another.
            _wake(handle)

    def _spawn(self, work: Coroutine) -> asyncio.Task:
        """Starts a task that `stop` ends."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, handle: EngineHandle) -> None:
        """Keeps one engine busy; an error that is not the engine's death ends the draw."""
        try:
            while True:
                if handle.reviving:
                    self._no_longer_expected(handle)
                await handle.ready()
                watch = self._spawn(handle.watch())
                # Returns when the engine has died.
                await self._keep_busy(handle)
                watch.cancel()
                await self._revive(handle)
        except Exception as error:
            self._results.put_nowait(error)

    async def _keep_busy(self, handle: EngineHandle) -> None:
        """Hands an engine more prompts whenever it has room, until it dies."""
        wake = self._wake[handle.index]
        running: set[asyncio.Task] = set()
        alive = True
        while alive or running:
            wake.clear()
            while (
                alive
                and len(running) < MAX_CALLS
                and (requests := self._take(handle, first=not running))
            ):
                call = next(_CALLS)
                self._calls[call] = handle, dict(enumerate(requests))
                running.add(self._spawn(self._call(call, requests)))
            waiter = self._spawn(wake.wait())
            done, _ = await asyncio.wait({waiter, *running}, return_when=asyncio.FIRST_COMPLETED)
            waiter.cancel()
            running -= done
            # Calls of a dead process all end.
            alive = all([task.result() for task in done - {waiter}]) and alive

    def _take(self, handle: EngineHandle, *, first: bool) -> list[Request]:
        """Takes prompts for one call: first an even share, then what fits in a free quarter."""
        room = self._room - handle.outstanding
        if first:
            room = min(self._share, room)
        if not first and (self._expected or room < self._room // 4):
            return []
        taken: list[Request] = []
        while self._todo and (not taken or len(taken) + len(self._todo[0]) <= room):
            taken += self._todo.popleft()
        handle.outstanding += len(taken)
        self._no_longer_expected(handle)
        return taken

    def _no_longer_expected(self, handle: EngineHandle) -> None:
        if handle.index in self._expected:
            self._expected.remove(handle.index)
            if not self._expected:
                self._wake_all()

    def _wake_all(self) -> None:
        for wake in self._wake.values():
            wake.set()

    async def _call(self, call: int, requests: list[Request]) -> bool:
        """Makes one call; False if the engine died: what it left is back on the list."""
        handle, left = self._calls[call]
        try:
            async for ref in handle.actor.generate.remote(call, self._version, requests):
                packed = await ref
                for index in packed.index:
                    del left[int(index)]
                handle.outstanding -= len(packed.index)
                _wake(handle)
                self._results.put_nowait(unpack(packed, requests))
            assert not left, f"{handle.name} left {len(left)} requests unanswered"
            del self._calls[call]
            return True
        except (RayActorError, StaleEngineError) as error:
            why = str(error).strip().splitlines()[0]
            log.warning("%s died with %d requests to answer: %s", handle.name, len(left), why)
            handle.outstanding -= len(left)
            self._todo.extendleft(reversed(chunks(list(left.values()), len(self._handles))))
            self._wake_all()
            del self._calls[call]
            return False

    def _late(self) -> str:
        held = ", ".join(f"{handle.name} has {handle.outstanding}" for handle in self._handles)
        waited = f"within {self._timeout_s:.0f} s"
        return f"{self._unanswered} requests were not answered {waited} ({held})."


def _wake(handle: EngineHandle) -> None:
    """Tells every draw that waits for room on this engine to look again."""
    for wake in handle.waiting:
        wake.set()


def chunks(requests: Sequence[Request], num_actors: int) -> list[Chunk]:
    """Groups requests by prompt; prompts are cut if there are fewer of them than engines."""
    groups: dict[tuple, Chunk] = {}
    for request in requests:
        groups.setdefault((request.key.split, request.key.draw), []).append(request)
    if len(groups) >= num_actors:
        return list(groups.values())
    size = math.ceil(len(requests) / num_actors)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]
