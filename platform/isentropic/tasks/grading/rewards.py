"""Grades rollouts: in killable processes where the task asks for it, else right here."""

import asyncio
import multiprocessing
import multiprocessing.forkserver
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import TimeoutError as CheckTimeout
from contextlib import contextmanager
from dataclasses import dataclass

from pebble import ProcessExpired, ProcessPool

from isentropic.checks import check_range
from isentropic.records import Prompt, Rollout
from isentropic.tasks.base import Task
from isentropic.tasks.chat import Chat
from isentropic.tasks.grading import sandbox

KINDS = ("timed_out", "crashed", "raised", "not_finite")
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
GRACE_S = 30.0  # beyond the deadline, for the pool to end a check
Item = tuple[Prompt, tuple[str, ...]]
Outcome = float | str  # a reward, or one of KINDS


class RewardError(RuntimeError):
    """So many checks in a row failed that the task itself must be wrong."""


@dataclass(frozen=True, kw_only=True)
class RewardsConfig:
    """Values live in conf/rewards/default.yaml."""

    workers: int
    timeout_s: float  # wall clock for one check
    deadline_s: float  # for one call of `grade`; what is not checked by then counts as timed out
    memory_gib: float  # address space of a worker
    batch_size: (
        int  # checks sent to a worker at once; a batch that fails is checked again one by one
    )
    reward_on_error: float
    max_errors_in_a_row: int | None  # more stop the run; null: never

    def __post_init__(self) -> None:
        for key in ("workers", "batch_size"):
            check_range(f"rewards.{key}", getattr(self, key), at_least=1)
        for key in ("timeout_s", "memory_gib"):
            check_range(f"rewards.{key}", getattr(self, key), above=0)
        check_range(
            "rewards.deadline_s",
            self.deadline_s,
            at_least=self.timeout_s,
            hint="It must hold one check.",
        )
        check_range("rewards.reward_on_error", self.reward_on_error)
        if self.max_errors_in_a_row is not None:
            check_range("rewards.max_errors_in_a_row", self.max_errors_in_a_row, at_least=1)


class RewardWorkers:
    """Implements `controller.protocols.Grader`. Workers start on the first isolated check and come back when killed."""

    def __init__(self, task: Task, chat: Chat, config: RewardsConfig) -> None:
        self._task, self._chat, self._config = task, chat, config
        self._counts = dict.fromkeys(KINDS, 0)
        self._errors_in_a_row = 0
        self._pool: ProcessPool | None = None

    async def grade(self, rollouts: Sequence[Rollout]) -> list[float]:
        """One task reward a rollout, in order. Raises RewardError when the task fails for every answer."""
        items = [(rollout.prompt, tuple(self._chat.turn_texts(rollout))) for rollout in rollouts]
        if self._task.isolated:
            outcomes = await self._check_isolated(items)
        else:
            outcomes = [sandbox.check_one(self._task, prompt, turns) for prompt, turns in items]
        for outcome, (prompt, _) in zip(outcomes, items, strict=True):
            self._count(outcome, prompt)
        return [
            self._config.reward_on_error if isinstance(outcome, str) else outcome
            for outcome in outcomes
        ]

    def counts(self) -> dict[str, int]:
        """Checks that timed out, crashed, raised or gave no finite number, since the start."""
        return dict(self._counts)

    def close(self) -> None:
        """Ends the workers, hung ones too."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join(timeout=10)
            self._pool = None

    async def _check_isolated(self, items: Sequence[Item]) -> list[Outcome]:
        """Batches first, for speed; then, one by one, what stood in a batch that a hang or a crash took down."""
        deadline = time.monotonic() + self._config.deadline_s
        size = self._config.batch_size
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        first = await self._check_batches(batches, deadline)
        outcomes = [outcome for batch in first for outcome in batch]
        if size == 1:
            return outcomes
        lost = [
            index for index, outcome in enumerate(outcomes) if outcome in ("timed_out", "crashed")
        ]
        again = await self._check_batches([[items[index]] for index in lost], deadline)
        for index, (outcome,) in zip(lost, again, strict=True):
            outcomes[index] = outcome
        return outcomes

    async def _check_batches(
        self, batches: Sequence[Sequence[Item]], deadline: float
    ) -> list[list[Outcome]]:
        """Outcomes of each batch; a batch that did not come back has the same kind of error for all its items."""
        outcomes: list[list[Outcome]] = [["timed_out"] * len(batch) for batch in batches]
        todo = iter(range(len(batches)))

        async def lane() -> None:
            # No more in the pool than it can run: what waits in its pipe could not be taken back at the deadline.
            for index in todo:
                if time.monotonic() >= deadline:
                    return
                outcomes[index] = await self._check_batch(batches[index], deadline)

        await asyncio.gather(*(lane() for _ in range(min(self._config.workers, len(batches)))))
        return outcomes

    async def _check_batch(self, batch: Sequence[Item], deadline: float) -> list[Outcome]:
        pool = self._started_pool()
        left = max(0.001, deadline - time.monotonic())
        future = pool.schedule(
            sandbox.check, args=(list(batch),), timeout=min(self._config.timeout_s, left)
        )
        try:
            async with asyncio.timeout(left + GRACE_S):  # should the pool itself not answer
                return await asyncio.wrap_future(future)
        except (CheckTimeout, TimeoutError):
            return ["timed_out"] * len(batch)
        except (ProcessExpired, MemoryError):
            return ["crashed"] * len(batch)

    def _started_pool(self) -> ProcessPool:
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            # Workers are forked from a small server that has the imports already: a killed one is back in 0.01 s.
            modules = (
                type(self._task).__module__,
                sandbox.__name__,
                *getattr(self._task, "preload", ()),
            )
            context.set_forkserver_preload(list(modules))
            with _without_secrets():
                multiprocessing.forkserver.ensure_running()
            self._pool = ProcessPool(
                max_workers=self._config.workers,
                initializer=sandbox.enter,
                initargs=(self._task, self._config.memory_gib, self._config.timeout_s),
                context=context,
            )
        return self._pool

    def _count(self, outcome: Outcome, prompt: Prompt) -> None:
        if not isinstance(outcome, str):
            self._errors_in_a_row = 0
            return
        self._counts[outcome] += 1
        self._errors_in_a_row += 1
        limit = self._config.max_errors_in_a_row
        if limit is not None and self._errors_in_a_row > limit:
            raise RewardError(
                f"the reward of {self._errors_in_a_row} answers in a row failed (last: {outcome}, prompt "
                f"{prompt.prompt_id}; in all: {self._counts}). The task's grade() is at fault, not the answers: try it "
                "on one of them by hand. To go on all the same: rewards.max_errors_in_a_row=null."
            )


@contextmanager
def _without_secrets() -> Iterator[None]:
    """The environment without names that look like secrets, for as long as the server of the workers starts.

    A process keeps the environment it was started with in /proc, however much it deletes later.
    """
    hidden = {name: value for name, value in os.environ.items() if SECRET.search(name)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
