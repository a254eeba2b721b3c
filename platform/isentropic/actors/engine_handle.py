"""Keeps one rollout actor for the pool: its outstanding work, its restarts, its health."""

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any

import ray
from ray._private import state
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError

from isentropic.actors.rollout_actor import Health
from isentropic.actors.transport import Published
from isentropic.actors.waiting import wait_one
from isentropic.controller.protocols import WaitError
from isentropic.records import Usage

log = logging.getLogger(__name__)

RETRY_S = 0.5  # while Ray restarts a process, calls on it fail at once


class EngineHandle:
    """A place for an engine. Its process may die and come back; the handle stays.

    Args:
        startup_s: deadline for a process to start its engine.
        health_s: an engine that answers no health call, or makes no step with work to do, for so
            long is hung. One that was just started again too, from when Ray says that it is up.
    """

    def __init__(self, actor: Any, index: int, *, startup_s: float, health_s: float) -> None:
        self.actor = actor
        self.index = index
        self.outstanding = 0  # requests handed to it and not answered, of all draws
        self.waiting: set[asyncio.Event] = set()  # of draws that want to know of answers
        self.restarts = 0
        self.startup_s = startup_s
        self._health_s = health_s
        self._reviving: asyncio.Task | None = None
        self.process: Health | None = None  # as it was last seen

    @property
    def name(self) -> str:
        return f"rollout actor {self.index}"

    @property
    def reviving(self) -> bool:
        return self._reviving is not None and not self._reviving.done()

    async def answers(self) -> None:
        """Raises WaitError if the process hangs, RayActorError if it is gone or not back yet."""
        try:
            self.process = await self.asked(self.actor.health.remote(), "health", self._health_s)
        except WaitError as error:
            # One that Ray is just starting cannot answer: killing it would begin the start anew.
            if await asyncio.to_thread(number_of_start, self.actor) is None:
                raise ActorUnavailableError(str(error), None) from error
            raise

    async def take_usage(self) -> Usage:
        """How full the engine was; empty if it is gone or hangs, which the next draw finds out."""
        try:
            return await self.asked(self.actor.take_usage.remote(), "usage", self._health_s)
        except (RayActorError, WaitError):
            return Usage()

    async def sleep(self) -> None:
        """Lets the engine give up its GPU. A dead process has none; one that hangs is killed."""
        try:
            await self.asked(self.actor.sleep.remote(), "falling asleep", self.startup_s)
        except RayActorError:
            pass
        except WaitError as error:
            self.kill(f"hangs ({str(error).splitlines()[0]})")

    async def load(self, weights: Published) -> None:
        """Loads weights into this engine.

        Raises RayActorError (not RuntimeError) if the process is gone, so that the caller can
        revive it; LearnerLost if the weights are gone with the rank that published them.
        """
        (loaded,) = await weights.load_into([self])
        if isinstance(loaded, BaseException):
            raise loaded

    async def ready(self) -> None:
        """Waits for a restart that is under way; one that failed is reported by the next call."""
        if self.reviving:
            await asyncio.shield(self._reviving)

    async def revive(self, weights: Published | None) -> None:
        """Waits until the process is back with the current weights; callers share one wait."""
        if not self.reviving:
            self.restarts += 1
            self._reviving = asyncio.ensure_future(self._revive(weights))
        await asyncio.shield(self._reviving)

    async def watch(self) -> None:
        """Runs while there is work: kills the process when it hangs, which fails its calls."""
        steps = -1
        progress = time.monotonic()
        while True:
            await asyncio.sleep(min(5.0, self._health_s / 4))
            try:
                health: Health = await wait_one(
                    self.actor.health.remote(),
                    who=self.name,
                    what="health",
                    timeout_s=self._health_s,
                )
                self.process = health
            except WaitError:
                self.kill(f"answers no health call for {self._health_s:.0f} s")
                return
            except RuntimeError:
                # It died: its calls report that.
                return
            if health.steps != steps or self.outstanding == 0:
                steps = health.steps
                progress = time.monotonic()
            elif time.monotonic() - progress > self._health_s:
                self.kill(
                    f"made no step for {self._health_s:.0f} s with {self.outstanding} requests to "
                    "answer"
                )
                return

    async def _revive(self, weights: Published | None) -> None:
        watch = asyncio.ensure_future(self._watch_restart())
        try:
            await self._come_back(weights)
        finally:
            watch.cancel()

    async def _come_back(self, weights: Published | None) -> None:
        deadline = time.monotonic() + self.startup_s
        while True:
            try:
                await self._first_answer(deadline)
                if weights is not None:
                    await self.load(weights)
                return
            except (RayActorError, RuntimeError) as error:
                cause = error if isinstance(error, RayActorError) else error.__cause__
                if not isinstance(cause, RayActorError) or isinstance(cause, ActorDiedError):
                    raise
                await asyncio.sleep(RETRY_S)

    async def _first_answer(self, deadline: float) -> None:
        left = max(deadline - time.monotonic(), 0.0)
        health = self.actor.health.remote()
        try:
            self.process = await wait_one(health, who=self.name, what="restarting", timeout_s=left)
        except WaitError as error:
            raise WaitError(
                f"{self.name} did not come back within {self.startup_s:.0f} s after its process "
                "died or hung. Look at its log for the cause; if it only needs longer, allow more "
                "time with cluster.startup_timeout_s."
            ) from error

    async def _watch_restart(self) -> None:
        """Runs while the process comes back: kills one that is up and answers nothing."""
        start, heard, killed = None, 0.0, None
        while True:
            await asyncio.sleep(min(5.0, self._health_s / 4))
            # Calls wait while Ray starts a process: their silence says nothing then.
            up = await asyncio.to_thread(number_of_start, self.actor)
            if up is None or up == killed:
                continue
            if up != start:
                start, heard = up, time.monotonic()
            left = heard + self._health_s - time.monotonic()
            if left <= 0:
                self.restarts += 1
                self.kill(f"was started again and answers nothing for {self._health_s:.0f} s")
                killed = start
                continue
            # An error is no answer either: if the connection to a frozen process is lost, each call
            # ends at once, as those on a dead one do.
            with suppress(RuntimeError):
                health = self.actor.health.remote()
                await wait_one(health, who=self.name, what="health", timeout_s=left)
                heard = time.monotonic()

    async def asked(self, ref: Any, what: str, timeout_s: float) -> Any:
        """Waits for `ref`; raises RayActorError, not RuntimeError, if the process is gone."""
        try:
            return await wait_one(
                ref, who=self.name, what=what, timeout_s=timeout_s, actor=self.actor
            )
        except RuntimeError as error:
            if isinstance(error.__cause__, RayActorError):
                raise error.__cause__ from None
            raise

    def kill(self, why: str) -> None:
        """Ends the process, a frozen one too: Ray sends SIGKILL if it does not go by itself."""
        log.warning("%s %s: it is killed and started again", self.name, why)
        ray.kill(self.actor, no_restart=False)


def number_of_start(actor: Any) -> int | None:
    """Returns how often Ray has restarted this actor; None unless its process is up."""
    # `ray.util.state` knows this too, but needs the dashboard, which a Ray of our own has not.
    about = state.actors(actor._actor_id.hex())
    return about["NumRestarts"] if about.get("State") == "ALIVE" else None
