"""How a run is stopped from outside: signals, a deadline for their answer, and what they turn into."""

import asyncio
import signal
import sys

from isentropic.controller.loop import Controller

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopping:
    """SIGTERM and the first Ctrl-C end the run after the step under way; the second Ctrl-C ends it now.

    A step that takes longer than `within_s` after the signal is given up: the run ends without a checkpoint of it,
    and goes on later from the one before, with what the ledger has. Before the first step there is nothing to finish:
    the run ends at once.
    """

    def __init__(self, within_s: float) -> None:
        self.reason: str | None = None  # the first signal's name
        self.overdue = False  # the run was ended by the deadline
        self._within_s = within_s
        self._controller: Controller | None = None

    def watch(self, controller: Controller) -> None:
        """From now on signals go to this controller; earlier ones too."""
        self._controller = controller
        if self.reason:
            controller.request_stop(self.reason)

    def __enter__(self) -> "Stopping":
        self._loop, self._running = asyncio.get_running_loop(), asyncio.current_task()
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            self._loop.add_signal_handler(number, self._stop, number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in SIGNALS:
            self._loop.remove_signal_handler(number)
            signal.signal(number, self._before[number])

    def _stop(self, number: signal.Signals) -> None:
        if number == signal.SIGINT and self.reason == number.name:
            self._running.cancel()
            return
        if self.reason is None:
            self.reason = number.name
            self._loop.call_later(self._within_s, self._give_up)
        if self._controller is None:
            self.overdue = True
            self._running.cancel()
            return
        self._controller.request_stop(number.name)
        again = "; Ctrl-C again to quit now" if number == signal.SIGINT else ""
        told = f"{number.name}: saving after this step, within {self._within_s:g} s{again}"
        print(told, file=sys.stderr, flush=True)

    def _give_up(self) -> None:
        self.overdue = True
        told = f"the step took longer than checkpoint.stop_within_s={self._within_s:g} after {self.reason}: given up"
        print(told, file=sys.stderr, flush=True)
        self._running.cancel()
