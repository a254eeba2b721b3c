"""Branch points in several processes at once: each takes a stretch of them and has a learner of its own."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import partial
from itertools import pairwise
from multiprocessing import get_context

from pebble import ProcessExpired, ProcessPool

from isentropic.experiments.branch.point import Brancher, Comparison, Rows, brancher
from isentropic.experiments.run.prepare import Prepared


async def branch_workers(
    about: Comparison,
    prepared: Prepared,
    points: Sequence[int],
    processes: int,
    keep: Callable[[Rows], None],
) -> None:
    """The rows of all points, each kept as soon as it is there. An error in one process ends them all.

    Args:
        points: in rising order.
    """
    if processes == 1 or len(points) < 2:
        if points:
            async with brancher(about, prepared) as own:
                for point in points:
                    keep(await own.at(point))
        return
    with ExitStack() as stack:
        shares = stretches(points, processes)
        pools = [_Pool(about, prepared, stack) for _ in shares]
        await asyncio.gather(
            *(_work(pool, share, keep) for pool, share in zip(pools, shares, strict=True))
        )


def stretches(points: Sequence[int], count: int) -> list[list[int]]:
    """The points in `count` stretches of about equal size, none empty: a state is reached from the one before it."""
    count = min(count, len(points))
    bounds = [len(points) * index // count for index in range(count + 1)]
    return [list(points[start:end]) for start, end in pairwise(bounds)]


class _Pool:
    """One process that has one learner."""

    def __init__(self, about: Comparison, prepared: Prepared, stack: ExitStack) -> None:
        self._pool = ProcessPool(
            max_workers=1,
            initializer=_begin,
            initargs=(about, prepared),
            context=get_context("spawn"),
        )
        stack.callback(self._pool.join, timeout=10)
        stack.callback(self._pool.stop)  # first: what runs is ended, after an error or Ctrl-C too

    async def at(self, point: int) -> Rows:
        """Raises RuntimeError where the process is gone."""
        try:
            return await asyncio.wrap_future(self._pool.schedule(_at, args=(point,)))
        except ProcessExpired as error:
            raise RuntimeError(
                f"the process that made the branches after step {point} was ended (exit code {error.exitcode}; short "
                "of memory?). The points before are kept; the same command goes on, with processes=1 in less memory."
            ) from error


async def _work(pool: _Pool, points: Sequence[int], keep: Callable[[Rows], None]) -> None:
    for point in points:
        keep(await pool.at(point))


class _Worker:
    """In its process: an event loop and a brancher that last as long as it does."""

    def __init__(self, about: Comparison, prepared: Prepared) -> None:
        self._open = partial(brancher, about, prepared)
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


def _begin(about: Comparison, prepared: Prepared) -> None:
    global _worker
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is the first process's, which ends the others
    _worker = _Worker(about, prepared)


def _at(point: int) -> Rows:
    return _worker.at(point)
