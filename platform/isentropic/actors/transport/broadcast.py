"""Sends weights from the ranks to all engines at once, while the ranks still gather them.

`publish` returns when the ranks have begun. The pool then lets rank 0 and the engines meet in a round
(`weights.channel`). If anyone of a round dies, hangs or refuses, the round is called off, and the
pool loads each of the others again by itself: rank 0 keeps what it sent.

Where engines and ranks share devices (`Route.lends`), the ranks gather inside the round instead, each
for the engines on its own device, and keep nothing: as long as an engine may ask, they stand still.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
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
        backend: gloo; nccl if ranks and engines are on GPUs; ipc if they share devices.
        processes: of one engine: its tensor parallelism.
        senders: all ranks for ipc, else rank 0 only.
    """

    def __init__(self, sender: Any, *, backend: str, processes: int, senders: int = 1) -> None:
        self.sender = sender
        self.backend = backend
        self.processes = processes
        self.senders = senders
        # One round at a time: rank 0 sends from one thread.
        self.turn = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._met: tuple[tuple[str, int], ...] = ()
        self._group = ""

    @property
    def lends(self) -> bool:
        return self.backend == "ipc"

    def send(self, meeting: Round) -> Awaitable[dict[str, float]]:
        """Lets rank 0 send what it has or is gathering; gives the seconds of its phases.

        Whoever awaits it bounds the wait.
        """
        return asyncio.wrap_future(self.sender.send.remote(meeting).future())

    def next_round(
        self, engines: Sequence[Place], published: "BroadcastWeights", timeout_s: float
    ) -> Round:
        number = next(self._numbers)
        # By process: one that was started again is connected to nobody.
        members = tuple((engine.process.node_id, engine.process.pid) for engine in engines)
        if members != self._met:
            self._met = members
            # With the publication: another route to the same ranks counts its rounds from 1 too,
            # and would find the addresses of this one's processes in the store.
            self._group = f"{published.serial}/{number}"
        return Round(
            number=number,
            serial=published.serial,
            policy_version=published.policy_version,
            host=published.address[0],
            port=published.address[1],
            backend=self.backend,
            group=self._group,
            size=self.senders + self.processes * len(engines),
            timeout_s=timeout_s,
            senders=self.senders,
        )

    def forget_group(self) -> None:
        """After a round that broke all must meet again."""
        self._met = ()


class BroadcastWeights:
    """Implements `transport.Published`: weights that the ranks have, or are still gathering."""

    def __init__(
        self,
        policy_version: int,
        serial: int,
        address: tuple[str, int],
        route: Route,
        send: Callable[[Round], Awaitable[dict[str, float]]],
        gathered: asyncio.Task | None = None,
    ) -> None:
        """
        Args:
            send: takes part in a round for the ranks; returns the seconds of its phases.
            gathered: ends when all ranks have gathered; raises what went wrong. None if `send`
                gathers.
        """
        self.policy_version = policy_version
        self.serial = serial
        self.address = address
        self.seconds: dict[str, float] = {}
        self._route = route
        self._send = send
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
        sending = asyncio.ensure_future(self._send(meeting))
        first, processes = self._route.senders, self._route.processes
        receiving = [
            asyncio.ensure_future(self._receive(engine, meeting, first + index * processes))
            for index, engine in enumerate(engines)
        ]
        waiting = {sending, *receiving} | ({self._gathered} if self._gathered else set())
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
            who = "a learner rank" if self._route.lends else "learner rank 0"
            raise LearnerLost(f"{who} hangs: it does not end a round of sending weights.")
        error = sending.exception()
        gathered = self._gathered
        if gathered and (
            isinstance(error, RayActorError) or (gathered.done() and gathered.exception())
        ):
            await gathered
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
