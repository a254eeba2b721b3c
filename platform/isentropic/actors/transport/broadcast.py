"""Sends weights from rank 0 to all engines at once, while the ranks still gather them.

`publish` returns when the ranks have begun. The pool then lets rank 0 and the engines meet in a round
(`weights.channel`). If anyone of a round dies, hangs or refuses, the round is called off, and the
pool loads each of the others again by itself: rank 0 keeps what it sent.
"""

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ray.exceptions import RayActorError

from isentropic.actors.transport import Loaded, Place
from isentropic.controller.protocols import LearnerLost, WaitError
from isentropic.weights.channel import Round, RoundBroken

LATE_S = 10.0  # for the others to leave a round that is off


class Route:
    """From one group of ranks to the engines: the numbers of rounds, and who met last.

    Args:
        sender: the `LearnerActor` of rank 0.
        backend: gloo, or nccl if ranks and engines are on GPUs.
        processes: of one engine: its tensor parallelism.
    """

    def __init__(self, sender: Any, *, backend: str, processes: int) -> None:
        self.sender = sender
        self.backend = backend
        self.processes = processes
        # One round at a time: rank 0 sends from one thread.
        self.turn = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._met: tuple[tuple[str, int], ...] = ()
        self._group = 0

    def next_round(
        self, engines: Sequence[Place], published: "BroadcastWeights", timeout_s: float
    ) -> Round:
        number = next(self._numbers)
        # By process: one that was started again is connected to nobody.
        members = tuple((engine.process.node_id, engine.process.pid) for engine in engines)
        if members != self._met:
            self._met = members
            self._group = number
        return Round(
            number=number,
            serial=published.serial,
            policy_version=published.policy_version,
            host=published.address[0],
            port=published.address[1],
            backend=self.backend,
            group=self._group,
            size=1 + self.processes * len(engines),
            timeout_s=timeout_s,
        )

    def forget_group(self) -> None:
        """After a round that broke all must meet again."""
        self._met = ()


class BroadcastWeights:
    """Implements `transport.Published`: weights that rank 0 has, or is still gathering."""

    def __init__(
        self,
        policy_version: int,
        serial: int,
        address: tuple[str, int],
        route: Route,
        gathered: asyncio.Task,
    ) -> None:
        """
        Args:
            gathered: ends when all ranks have gathered; raises what went wrong.
        """
        self.policy_version = policy_version
        self.serial = serial
        self.address = address
        self.seconds: dict[str, float] = {}
        self._route = route
        self._gathered = gathered

    async def load_into(self, engines: Sequence[Place]) -> list[Loaded | BaseException]:
        if not engines:
            return []
        async with self._route.turn:
            return await self._round(engines)

    def settled(self) -> None:
        self._route.sender.forget.remote(self.serial)

    async def _round(self, engines: Sequence[Place]) -> list[Loaded | BaseException]:
        deadline = max(engine.startup_s for engine in engines)
        meeting = self._route.next_round(engines, self, deadline)
        sending = asyncio.wrap_future(self._route.sender.send.remote(meeting).future())
        receiving = [
            asyncio.ensure_future(self._receive(engine, meeting, 1 + index * self._route.processes))
            for index, engine in enumerate(engines)
        ]
        waiting = {sending, *receiving, self._gathered}
        done, _ = await asyncio.wait(waiting, timeout=deadline, return_when=asyncio.FIRST_EXCEPTION)
        broken = len(done) < len(waiting) or any(each.exception() for each in done)
        if broken:
            self._route.forget_group()
            why = next((str(each.exception()) for each in done if each.exception()), "too late")
            self._route.sender.call_off.remote(meeting, why)
            await asyncio.wait(waiting, timeout=LATE_S)
        await self._check_sender(sending)
        return [_outcome(task, engine) for task, engine in zip(receiving, engines, strict=True)]

    async def _receive(self, engine: Place, meeting: Round, first_rank: int) -> Loaded:
        ref = engine.actor.receive_weights.remote(meeting, first_rank)
        return await engine.asked(ref, "receiving weights", meeting.timeout_s + 2 * LATE_S)

    async def _check_sender(self, sending: asyncio.Future) -> None:
        """Raises what the ranks' side did wrong, whatever the engines say of it."""
        if not sending.done():
            raise LearnerLost("learner rank 0 hangs: it does not end a round of sending weights.")
        error = sending.exception()
        if isinstance(error, RayActorError) or (
            self._gathered.done() and self._gathered.exception()
        ):
            await self._gathered
        if isinstance(error, RayActorError):
            raise LearnerLost(f"learner rank 0 died while it sent weights: {error}") from error
        cause = getattr(error, "cause", error)
        if cause is not None and not isinstance(cause, RoundBroken):
            raise cause
        if error is None:
            self.seconds = sending.result()


def _outcome(receiving: asyncio.Task, engine: Place) -> Loaded | BaseException:
    if not receiving.done():
        receiving.cancel()
        return WaitError(f"{engine.name} does not leave a round of weights that was called off.")
    with suppress(asyncio.CancelledError):
        return receiving.exception() or receiving.result()
    return WaitError(f"{engine.name} was not waited for.")
