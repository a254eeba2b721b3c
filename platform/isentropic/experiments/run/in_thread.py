"""Waits for a coroutine in a process that has an event loop already, as every notebook has."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def gets_signals() -> bool:
    """Return True if this thread may run a loop of its own and give it the process's signals."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return threading.current_thread() is threading.main_thread()
    return False


def run_anywhere(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, in this thread if that has no loop; Ctrl-C cancels it."""
    return asyncio.run(work) if gets_signals() else in_thread(work)


def in_thread(work: Coroutine[Any, Any, T], interrupt: Callable[[], None] | None = None) -> T:
    """Run a coroutine to its end in a thread of its own, and wait for it.

    Args:
        interrupt: called, in the coroutine's thread, for each Ctrl-C while it goes on; None cancels
            the coroutine, which then ends in a KeyboardInterrupt here.
    """
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task]] = Future()

    async def whole() -> T:
        begun.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await work

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="isentropic") as pool:
        future = pool.submit(asyncio.run, whole())
        while True:
            try:
                return future.result()
            except KeyboardInterrupt:
                loop, task = begun.result()
                loop.call_soon_threadsafe(interrupt or task.cancel)
            except asyncio.CancelledError:
                raise KeyboardInterrupt from None
