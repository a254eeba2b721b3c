"""Progress of what takes long before a run starts: silence for minutes looks like a hang."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

QUIET_S = 3.0  # before the first word of progress
EVERY_S = 10.0  # between two words of it

T = TypeVar("T")


def say_on_stderr(text: str) -> None:
    """Prints one line of progress, which is no part of what a command gives back."""
    print(text, file=sys.stderr, flush=True)


def announced(
    items: Iterable[T],
    what: str,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[T]:
    """The items, with a line of progress now and then, if they take long.

    The line has the time left if the number of items is known, else the time passed.
    """
    started = clock()
    due = started + QUIET_S
    total = len(items) if isinstance(items, Sized) else None
    for number, item in enumerate(items):
        now = clock()
        if now >= due and number:
            passed = now - started
            if total is None:
                say(f"{what}: {number:,} in {_duration(passed)}")
            else:
                left = passed / number * (total - number)
                say(f"{what}: {number:,} of {total:,}, about {_duration(left)} left")
            due = now + EVERY_S
        yield item


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
