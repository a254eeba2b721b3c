"""The processes of an engine over several devices: it ends with the first of them that ends."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SETTLE_S = 1.0  # an error may come before vLLM sees that one of its processes has ended

log = logging.getLogger(__name__)


def end_this_process() -> None:
    """Ends it as a crash would: whoever started it sees a death, and starts it again."""
    os._exit(1)


class Processes:
    """Watches vLLM's processes, if there are several.

    vLLM stops all of them when one ends, and raises an error in this process, which lives on: a
    call would fail with that error instead of the engine's death, and so would each later one.

    Args:
        executor: vLLM's; None for an engine that runs in this process alone.
        end: called when one of the processes has ended.
    """

    def __init__(self, executor: Any | None, end: Callable[[], None] = end_this_process) -> None:
        self._executor = executor
        self._end = end
        if executor is not None:
            executor.register_failure_callback(self._give_up)

    @contextmanager
    def needed(self) -> Iterator[None]:
        """Calls `end` if what runs inside fails because one of the processes has ended."""
        try:
            yield
        except BaseException:
            if self._executor is not None and self._lost():
                self._give_up()
            raise

    def _lost(self) -> bool:
        deadline = time.monotonic() + SETTLE_S
        while not self._executor.is_failed:
            if time.monotonic() > deadline:
                return False
            time.sleep(SETTLE_S / 20)
        return True

    def _give_up(self) -> None:
        log.error("a process of the engine has ended, and the engine ends with it")
        self._end()
