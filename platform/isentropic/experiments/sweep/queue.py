"""Runs of a sweep on shared actors: as many at once as the resources hold, the rest wait."""

import asyncio
import shutil
import signal
import time
import traceback
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from isentropic.actors.ray_runtime import start_ray, stop_ray
from isentropic.experiments.program import DONE as CODE_DONE
from isentropic.experiments.program import FAULT, RESUMABLE, STOPPED_BY_ALARM, is_ours
from isentropic.experiments.run.assemble import run_with
from isentropic.experiments.run.folder import check_run_folder
from isentropic.experiments.run.lock import run_lock
from isentropic.experiments.run.prepare import Prepared, data_key, held_out_note, prepare
from isentropic.experiments.run.stopping import SIGNALS, RelayedStopping
from isentropic.experiments.sweep.lane import Lane, reuse_key
from isentropic.experiments.sweep.ledger import (
    DONE,
    FAILED,
    INTERRUPTED,
    OVER,
    PRUNED,
    RUNNING,
    STOPPED,
    SweepLedger,
)
from isentropic.experiments.sweep.plan import Trial
from isentropic.experiments.sweep.room import largest, room_for
from isentropic.experiments.sweep.search import Search, Watch, curve_of
from isentropic.experiments.sweep.table import SweepTable
from isentropic.metrics.sinks.terminal import Terminal

ATTEMPTS = 2
LANES = ".lanes"  # in the sweep's folder, while it runs
STATES = {CODE_DONE: DONE, STOPPED_BY_ALARM: STOPPED, RESUMABLE: INTERRUPTED}


class Sweep:
    """The queue of a sweep and what becomes of its runs."""

    def __init__(
        self,
        folder: Path,
        trials: Sequence[Trial],
        ledger: SweepLedger,
        table: SweepTable,
        search: Search | None = None,
    ) -> None:
        """
        Args:
            trials: all runs; none if a search suggests them as it goes.
        """
        self._folder, self._ledger, self._table = folder, ledger, table
        self._search = search
        self._queue: deque[Trial] = deque()
        self._add(trials)
        self._under_way = 0
        self._problem = ""  # of the search itself: no run would be of use to it
        self._ended = asyncio.Condition()  # a run, so that there may be more to do
        if search is not None:
            self._suggest()
        self._prepared: dict[str, Prepared] = {}
        self._preparing = asyncio.Lock()
        self._stopping: dict[str, RelayedStopping] = {}  # of the runs under way
        self._stop: signal.Signals | None = None

    async def run(self, parallel: int | None) -> int:
        """Run all that are not over; return the exit code."""
        if not self._queue:
            return CODE_DONE
        # A search chooses its runs later, from between these.
        known = self._queue if self._search is None else self._search.extremes
        needed = largest(trial.config for trial in known)
        own_ray = not ray.is_initialized() and start_ray(
            self._queue[0].config.cluster, num_cpus=needed["CPU"] * (parallel or 1)
        )
        loop = asyncio.get_running_loop()
        for number in SIGNALS:  # after ray.init, which takes SIGTERM for itself
            loop.add_signal_handler(number, self._signalled, number)
        try:
            room = room_for(needed)
            if (parallel or 0) > room:
                self._table.say(
                    f"parallel={parallel}: this Ray holds {room} at once; the others wait their "
                    "turn"
                )
            states = await self.go(min(parallel or room, room))
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)
            if own_ray:
                stop_ray()
        if self._stop is not None:
            return RESUMABLE
        return FAULT if FAILED in states else CODE_DONE

    async def go(self, parallel: int) -> set[str]:
        """Work off the queue by that many lanes at most; return the states that runs ended in."""
        at_once = len(self._queue) if self._search is None else self._search.plan.batch
        lanes = min(at_once, parallel)
        runs = (
            f"{len(self._queue)} runs"
            if self._search is None
            else f"a search of {self._search.plan.count} runs"
        )
        self._table.say(f"{runs}, {lanes} at once, {self._folder}")
        try:
            states = await asyncio.gather(*(self._lane(index) for index in range(lanes)))
        finally:
            shutil.rmtree(self._folder / LANES, ignore_errors=True)
        return set().union(*states)

    async def _lane(self, index: int) -> set[str]:
        """Take runs one after the other on one set of actors; return the states they ended in."""
        lane, states = Lane(self._folder / LANES / str(index)), set()
        try:
            while (trial := await self._take(lane)) is not None:
                try:
                    states.add(await self._run(lane, trial))
                finally:
                    async with self._ended:
                        self._under_way -= 1
                        self._ended.notify_all()
        finally:
            lane.close()
        return states

    async def _take(self, lane: Lane) -> Trial | None:
        """Return the lane's next run; None if there is none, nor will be."""
        async with self._ended:
            # A search goes on when its batch has ended: until then a free lane waits.
            while self._search is not None and not self._queue and self._under_way:
                await self._ended.wait()
            if self._stop is not None:
                return None
            if self._problem:
                raise ValueError(self._problem)
            if not self._queue and self._search is not None:
                self._suggest()
            if not self._queue:
                return None
            self._under_way += 1
            return self._next(lane)

    def _suggest(self) -> None:
        """Queue the next batch of the search, if there is one."""
        batch = self._search.next_batch(self._ledger)
        for trial in self._search.trials:
            self._table.add(trial.name, trial.config.run.steps)
        self._add(ordered(batch))

    def _add(self, trials: Sequence[Trial]) -> None:
        """Queue the runs that are not over."""
        for trial in trials:
            state = self._ledger.state(trial.digest)
            if state in OVER:
                self._table.state(trial.name, state, "already; not run again")
            else:
                self._queue.append(trial)

    def _next(self, lane: Lane) -> Trial:
        """Return the first run that the lane's actors fit, else the first of all."""
        for trial in self._queue:
            known = self._prepared.get(data_key(trial.config))
            if known is not None and lane.fits(trial.config, known):
                self._queue.remove(trial)
                return trial
        return self._queue.popleft()

    async def _run(self, lane: Lane, trial: Trial) -> str:
        """Take one run to its end, a second time if it fails; return its state."""
        for attempt in range(1, ATTEMPTS + 1):
            start, starts, row = time.monotonic(), lane.starts, self._table.rows[trial.name]
            row.begin()
            again = False
            self._note(trial, RUNNING, attempt)
            try:
                state, found = await self._attempt(lane, trial)
                message = f"at step {found['step']}" if "step" in found else ""
            except Exception as error:  # of any kind: the other runs go on
                state, message, found = FAILED, f"{type(error).__name__}: {error}", {}
                # Bad input stays bad: it is not tried again.
                again = attempt < ATTEMPTS and not (
                    isinstance(error, ValueError) and is_ours(error)
                )
                with self._log(trial).open("a", encoding="utf-8") as file:
                    traceback.print_exception(error, file=file)
            seconds = time.monotonic() - start
            facts = {"seconds": round(seconds, 2), "overhead_s": round(seconds - row.steps_s, 2)}
            facts |= {"started_actors": lane.starts > starts} | found
            self._note(trial, state, attempt, message, **facts)
            if not again or self._stop is not None:
                break
        return state

    async def _attempt(self, lane: Lane, trial: Trial) -> tuple[str, dict[str, Any]]:
        """Make the run, or go on with it; return its state, and what the search found about it."""
        watch = None if self._search is None else self._search.judge(trial)
        state = STATES[await self._train(lane, trial, watch)]
        if watch is None:
            return state, {}
        if watch.problem:
            self._problem = watch.problem
            raise ValueError(watch.problem)
        pruned = state == STOPPED and watch.pruned_at is not None
        found = {"step": watch.pruned_at} if pruned else {}
        curve = curve_of(self._search.plan, trial)
        if curve:
            found["value"] = self._search.plan.number_of(curve)
        return PRUNED if pruned else state, found

    async def _train(self, lane: Lane, trial: Trial, watch: Watch | None) -> int:
        config = trial.config
        with run_lock(Path(config.run.dir)), self._log(trial).open("a", encoding="utf-8") as text:
            check_run_folder(config, trial.cfg)
            prepared = await self._prepare(trial)
            stopping = RelayedStopping(config.checkpoint.stop_within_s)
            self._stopping[trial.name] = stopping
            if self._stop is not None:
                return RESUMABLE
            try:
                logs: list[Any] = [self._table.rows[trial.name]]
                if watch is not None:
                    watch.stop_by(stopping)
                    logs.append(watch)
                terminal = Terminal(
                    config.run.steps, samples=config.evaluation.samples, stream=text
                )
                return await run_with(
                    config, trial.cfg, prepared, lane.lend, stopping, terminal, logs
                )
            except asyncio.CancelledError:
                return RESUMABLE  # a second Ctrl-C
            finally:
                del self._stopping[trial.name]

    async def _prepare(self, trial: Trial) -> Prepared:
        """Return what the run needs besides its config; data that runs share is read once.

        One after the other: libraries that build a model or load a task set things of the whole
        process meanwhile, such as torch's default dtype.
        """
        key = data_key(trial.config)
        async with self._preparing:
            known = self._prepared.get(key)
            prepared = await asyncio.to_thread(prepare, trial.config, known)
            if known is None:
                self._prepared[key] = prepared
                if prepared.data and (note := held_out_note(trial.config, prepared.data)):
                    self._table.say(f"{trial.name}: {note}")
        return prepared

    def _note(
        self, trial: Trial, state: str, attempt: int, message: str = "", **cost: float
    ) -> None:
        row = {
            "run": trial.name,
            "overrides": trial.overrides,
            "state": state,
            "attempts": attempt,
        }
        if message:
            cost = cost | {"message": message}
        self._ledger.write(trial.digest, **row, **cost)
        overhead = f"overhead {cost['overhead_s']:.1f} s" if "overhead_s" in cost else ""
        self._table.state(trial.name, state, message or overhead)

    def _log(self, trial: Trial) -> Path:
        """Return the file for what the run would have said on its own terminal."""
        path = self._folder / "logs" / f"{trial.name}.log"
        path.parent.mkdir(exist_ok=True)
        return path

    def _signalled(self, number: signal.Signals) -> None:
        """Start no further run; stop those under way as a run by itself would be stopped."""
        self._stop = number
        for stopping in list(self._stopping.values()):
            stopping.signalled(number)


def ordered(trials: Sequence[Trial]) -> list[Trial]:
    """Return the runs with those that can share actors next to each other, else as they were."""
    keys = {trial.digest: reuse_key(trial.config, trial.config.model) for trial in trials}
    first: dict[str, int] = {}
    for index, trial in enumerate(trials):
        first.setdefault(keys[trial.digest], index)
    return sorted(trials, key=lambda trial: first[keys[trial.digest]])
