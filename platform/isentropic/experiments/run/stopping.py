"""Stops a run from outside: signals, a deadline for the answer, and what they turn into."""

import asyncio
import signal
import sys
from collections.abc import Callable

from isentropic.actors.ray_runtime import head_answers
from isentropic.controller.loop import Controller

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOOK_EVERY_S = 2.0


class Stopping:
    """Ends the run: at SIGTERM or Ctrl-C after the step under way, at the second Ctrl-C at once.

    The step is given up if it takes longer than `within_s` after the signal, or if the signal ended
    Ray too (systemd and some batch systems signal every process of a job): the run ends without a
    checkpoint of it, and goes on later from the one before, with what the ledger has. Before the
    first step there is nothing to finish: the run ends at once. After the last one SIGTERM changes
    nothing: the run is ending.

    Args:
        ray_answers: False when nothing will answer any more; may take seconds.
    """

    def __init__(self, within_s: float, ray_answers: Callable[[], bool] = head_answers) -> None:
        self.reason: str | None = None  # the first signal's name
        self.overdue = False  # the run was ended before its step was
        self._within_s = within_s
        self._ray_answers = ray_answers
        self._controller: Controller | None = None
        self._deadlines: asyncio.Task | None = None
        self._over = False

    def watch(self, controller: Controller) -> None:
        """Sends signals to this controller from now on, and an earlier one now."""
        self._controller = controller
        if self.reason:
            controller.request_stop(self.reason)

    def over(self) -> None:
        """Notes that the run has ended, and only its files remain to be written."""
        self._over = True
        if self._deadlines is not None:
            self._deadlines.cancel()

    def __enter__(self) -> "Stopping":
        self._loop = asyncio.get_running_loop()
        self._running = asyncio.current_task()
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            self._loop.add_signal_handler(number, self._stop, number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in SIGNALS:
            self._loop.remove_signal_handler(number)
            signal.signal(number, self._before[number])

    def _stop(self, number: signal.Signals) -> None:
        if self._over and number == signal.SIGTERM:
            return
        if self._over or (number == signal.SIGINT and self.reason == number.name):
            self._running.cancel()
            return
        first = self.reason is None
        if first:
            self.reason = number.name
        if self._controller is None:
            self.overdue = True
            self._running.cancel()
            return
        if first:
            self._deadlines = self._loop.create_task(self._give_up_late())
        self._controller.request_stop(number.name)
        again = "; Ctrl-C again to quit now" if number == signal.SIGINT else ""
        _say(f"{number.name}: saving after this step, within {self._within_s:g} s{again}")

    async def _give_up_late(self) -> None:
        """Ends the run at the deadline, or as soon as Ray has gone."""
        try:
            async with asyncio.timeout(self._within_s):
                while await asyncio.to_thread(self._ray_answers):
                    await asyncio.sleep(LOOK_EVERY_S)
            _say(f"{self.reason} has ended Ray too: the step is given up")
        except TimeoutError:
            limit = f"checkpoint.stop_within_s={self._within_s:g}"
            _say(f"the step took longer than {limit} after {self.reason}: given up")
        self.overdue = True
        self._running.cancel()


class RelayedStopping(Stopping):
    """`Stopping` of a run that gets no signals itself: who has them calls `signalled`.

    So it is for the runs of a sweep, which share a process, and for a run in a thread.
    """

    def __enter__(self) -> "RelayedStopping":
        self._loop, self._running = asyncio.get_running_loop(), asyncio.current_task()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def signalled(self, number: signal.Signals) -> None:
        """Pass the signal on as if only this run had got it; keep it until its controller is there."""
        if hasattr(self, "_running"):
            self._stop(number)
        else:
            self.reason = number.name

    def end(self, reason: str) -> None:
        """End the run after the step under way, for a reason that is no signal."""
        self.reason = self.reason or reason
        if self._controller is not None:
            self._controller.request_stop(reason)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
