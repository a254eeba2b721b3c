"""Branch points in several processes at once: each takes a stretch and has its own learner."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import replace
from functools import partial
from itertools import pairwise
from multiprocessing import get_context

from pebble import ProcessExpired, ProcessPool

from isentropic.experiments.branch.point import Brancher, Comparison, Rows, brancher
from isentropic.experiments.run.prepare import Prepared


async def branch_workers(
    comparison: Comparison,
    prepared: Prepared,
    points: Sequence[int],
    processes: int,
    keep: Callable[[Rows], None],
) -> None:
    """Makes the rows of all points, each kept once it is there. An error in one process ends all.

    Args:
        points: in rising order.
    """
    if processes == 1 or len(points) < 2:
        if points:
            async with brancher(comparison, prepared) as branches:
                for point in points:
                    keep(await branches.at(point))
        return
    with ExitStack() as stack:
        shares = stretches(points, processes)
        pools = [_Pool(comparison, prepared, stack) for _ in shares]
        await asyncio.gather(
            *(_work(pool, share, keep) for pool, share in zip(pools, shares, strict=True))
        )


def stretches(points: Sequence[int], count: int) -> list[list[int]]:
    """The points in `count` stretches of about equal size, none empty.

    Neighbours stay together because a state is reached from the one before it.
    """
    count = min(count, len(points))
    bounds = [len(points) * index // count for index in range(count + 1)]
    return [list(points[start:end]) for start, end in pairwise(bounds)]


class _Pool:
    """One process that has one learner."""

    def __init__(self, comparison: Comparison, prepared: Prepared, stack: ExitStack) -> None:
        self._pool = ProcessPool(
            max_workers=1,
            initializer=_begin,
            # Digests of the data stay behind: no branch asks for them, and they cannot travel.
            initargs=(comparison, replace(prepared, data=None)),
            context=get_context("spawn"),
        )
        # Called in reverse: what still runs is ended, after an error or Ctrl-C too, then awaited.
        stack.callback(self._pool.join, timeout=10)
        stack.callback(self._pool.stop)

    async def at(self, point: int) -> Rows:
        """The rows of a point. Raises RuntimeError if the process is gone."""
        try:
            return await asyncio.wrap_future(self._pool.schedule(_at, args=(point,)))
        except ProcessExpired as error:
            raise RuntimeError(
                f"the process that made the branches after step {point} was ended (exit code "
                f"{error.exitcode}; short of memory?). The points before are kept; the same "
                "command goes on, with processes=1 in less memory."
            ) from error


async def _work(pool: _Pool, points: Sequence[int], keep: Callable[[Rows], None]) -> None:
    for point in points:
        keep(await pool.at(point))


class _Worker:
    """What the process has: an event loop and a brancher, as long as it lives."""

    def __init__(self, comparison: Comparison, prepared: Prepared) -> None:
        self._open = partial(brancher, comparison, prepared)
        self._runner = asyncio.Runner()
        self._context: AbstractAsyncContextManager[Brancher] | None = None

    def at(self, point: int) -> Rows:
        return self._runner.run(self._at(point))

    async def _at(self, point: int) -> Rows:
        if self._context is None:
            self._context = self._open()
            self._brancher = await self._context.__aenter__()
        return await self._brancher.at(point)


_worker: _Worker


def _begin(comparison: Comparison, prepared: Prepared) -> None:
    global _worker
    # Ctrl-C goes to the first process, which ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker = _Worker(comparison, prepared)


def _at(point: int) -> Rows:
    return _worker.at(point)
