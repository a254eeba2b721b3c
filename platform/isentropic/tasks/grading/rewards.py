"""Grades rollouts: in walled, killable processes if the task needs them, else in the run's own."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from isentropic.checks import check_choice, check_range
from isentropic.records import Prompt, Rollout, is_right
from isentropic.tasks.base import FORMS, Task
from isentropic.tasks.chat import Chat
from isentropic.tasks.grading.lanes import Lanes, Place, PlaceLost
from isentropic.tasks.grading.outcome import (
    CRASHED,
    KINDS,
    TIMED_OUT,
    Failed,
    Outcome,
    Unchecked,
    parts_of,
    reason_of,
)
from isentropic.tasks.grading.pool import RewardError, WorkerPool
from isentropic.tasks.grading.wall import Wall
from isentropic.tasks.grading.worker import Item, check_all

NODES = ("driver", "all")
WARNINGS = 8  # places of errors that are named

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RewardsConfig:
    """Values live in conf/rewards/default.yaml."""

    # Of a node; null: half of the CPUs that a process of the run may use, 2 at least.
    workers: int | None
    timeout_s: float  # wall clock for one check
    deadline_s: float  # for one call of `grade`; checks not made by then count as timed out
    memory_gib: float  # address space of a worker
    # Checks sent to a worker at once; those of a batch that fails are made again one by one.
    batch_size: int
    # Of a check that hung, died, raised or gave no finite number: no more than a wrong answer gets.
    reward_on_error: float
    # After more, the right answer is checked, and if that fails too the run stops; null: never.
    max_errors_in_a_row: int | None
    network: bool = False  # a check may connect to servers, such as a judge; nothing else opens
    # A reward that may run what an answer wrote does so behind a wall with gaps, or with `network` too.
    accept_gaps: bool = False
    # driver: checks are made on the node of the run's own process; all: on every node of the cluster.
    nodes: str = "driver"

    def __post_init__(self) -> None:
        check_choice("rewards.nodes", self.nodes, NODES)
        if self.workers is not None:
            check_range("rewards.workers", self.workers, at_least=1, at_most=1024)
        check_range("rewards.batch_size", self.batch_size, at_least=1)
        check_range("rewards.timeout_s", self.timeout_s, at_least=0.01)
        check_range(
            "rewards.memory_gib",
            self.memory_gib,
            at_least=0.1,
            hint="A worker that has less cannot start.",
        )
        check_range(
            "rewards.deadline_s",
            self.deadline_s,
            at_least=self.timeout_s,
            hint="It must hold one check.",
        )
        check_range("rewards.reward_on_error", self.reward_on_error)
        if self.max_errors_in_a_row is not None:
            check_range("rewards.max_errors_in_a_row", self.max_errors_in_a_row, at_least=1)


def make_pool(task: Task, config: RewardsConfig, say: Callable[[str], None]) -> WorkerPool:
    """Makes the pool of one node; raises OpenWall as `WorkerPool` does."""
    return WorkerPool(
        task,
        memory_gib=config.memory_gib,
        timeout_s=config.timeout_s,
        say=say,
        workers=config.workers,
        network=config.network,
        accept_gaps=config.accept_gaps,
    )


class Deadline:
    """When a call's checks must be made by; no answer pays for a place that froze meanwhile."""

    def __init__(self, seconds: float) -> None:
        self._counted = time.monotonic()  # all before it counts, or was left out
        self._at = self._counted + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._at - time.monotonic()

    def leave_out(self, since: float) -> None:
        """Does not count the time from then on, once, however many checks waited for the place."""
        now = time.monotonic()
        self._at += max(0.0, now - max(since, self._counted))
        self._counted = now


class RewardWorkers:
    """Implements `controller.protocols.Grader`.

    Workers start on the first isolated check, and are replaced if they are killed.
    """

    def __init__(
        self,
        task: Task,
        chat: Chat,
        config: RewardsConfig,
        *,
        say: Callable[[str], None] = log.info,
        warn: Callable[[str], None] = log.warning,
    ) -> None:
        """say: gets what the workers are walled off by. warn: gets the first errors of each kind.

        Raises:
            OpenWall: the task may run what an answer wrote, and `rewards.network` is true.
        """
        self._task = task
        self._chat = chat
        self._config = config
        self._counts = dict.fromkeys(KINDS, 0)
        self._errors_in_a_row = 0
        self._warn = warn
        self._warned: set[str] = set()
        self._parts: set[str] = set()  # of the rewards so far
        self._pool = make_pool(task, config, say)
        self._lanes = Lanes(self._pool)

    async def grade(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Returns one task reward per rollout, in order; `Unchecked` if its check gave none.

        Raises:
            RewardError: the task fails on right answers too.
        """
        outcomes = await self.check(
            [
                (
                    rollout.prompt,
                    tuple(self._chat.turn_texts(rollout)),
                    rollout.finish_reason == "length",
                )
                for rollout in rollouts
            ]
        )
        for outcome, rollout in zip(outcomes, rollouts, strict=True):
            await self._count(outcome, rollout.prompt)
        return [
            Unchecked(self._config.reward_on_error) if isinstance(outcome, str) else outcome
            for outcome in outcomes
        ]

    def why(self, outcome: Outcome) -> str:
        """Returns what was wrong, for a user's own reward with file and line; "" if nothing was."""
        if not isinstance(outcome, str):
            return ""
        if reason := reason_of(outcome):
            return reason
        place = getattr(self._task, "place", "")
        took = f"it gave no answer within rewards.timeout_s={self._config.timeout_s:g}"
        said = {TIMED_OUT: took, CRASHED: "its process ended"}.get(outcome, outcome)
        return f"{place}: {said}" if place else said

    @property
    def wall(self) -> Wall | None:
        """The wall around the checks; None before the first isolated one."""
        return self._pool.wall

    def spread(self, places: Sequence[Place]) -> None:
        """Has checks made in more places, until one is lost; who made them closes them."""
        self._lanes.add(places)

    def counts(self) -> dict[str, int]:
        """Counts the checks that timed out, crashed, raised or gave no finite number, by kind."""
        return dict(self._counts)

    def close(self) -> None:
        """Ends the workers, hung ones too."""
        self._pool.close()

    async def check(self, items: Sequence[Item]) -> list[Outcome]:
        """Returns a reward or the kind of an error per item, in order, and counts nothing."""
        if self._task.isolated:
            return await self._check_isolated(items)
        return check_all(self._task, items)

    async def _check_isolated(self, items: Sequence[Item]) -> list[Outcome]:
        """Checks in batches, for speed; then one by one those whose batch hung or crashed."""
        deadline = Deadline(self._config.deadline_s)
        # An answer whose code runs could decide what others of its batch are paid.
        size = 1 if getattr(self._task, "runs_code", False) else self._config.batch_size
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        first = await self._check_batches(batches, deadline)
        outcomes = [outcome for batch in first for outcome in batch]
        if size == 1:
            return outcomes
        lost = [index for index, outcome in enumerate(outcomes) if outcome in (TIMED_OUT, CRASHED)]
        again = await self._check_batches([[items[index]] for index in lost], deadline)
        for index, (outcome,) in zip(lost, again, strict=True):
            outcomes[index] = outcome
        return outcomes

    async def _check_batches(
        self, batches: Sequence[Sequence[Item]], deadline: Deadline
    ) -> list[list[Outcome]]:
        """Returns the outcomes of each batch; as many run at a time as there are workers."""
        late = self._late()
        outcomes: list[list[Outcome]] = [[late] * len(batch) for batch in batches]
        remaining = iter(range(len(batches)))

        async def lane() -> None:
            for index in remaining:
                checked = await self._check_one(batches[index], deadline)
                if checked is None:
                    return
                outcomes[index] = checked

        lanes = min(self._lanes.count, len(batches))
        await asyncio.gather(*(lane() for _ in range(lanes)))
        return outcomes

    async def _check_one(self, batch: Sequence[Item], deadline: Deadline) -> list[Outcome] | None:
        """Returns the outcomes of a batch; None if the deadline of the whole call is over.

        It waits for a lane only while a check still fits. Those that come faster than they can be
        made would else all get one just before their deadline, and be cut off.
        """
        reserve = min(self._config.timeout_s, self._config.deadline_s / 2)
        try:
            async with asyncio.timeout(max(0.0, deadline.left - reserve)):
                place = await self._lanes.take()
        except TimeoutError:
            return None
        asked = time.monotonic()
        try:
            limit = min(self._config.timeout_s, deadline.left)
            if limit <= 0:
                return None
            checked = await place.check(batch, limit)
        except PlaceLost as lost:
            if self._lanes.drop(place):
                self._warn(f"{lost} Its checks are made by the rest.")
            deadline.leave_out(asked)
            return await self._check_one(batch, deadline)
        finally:
            self._lanes.give(place)
        # Cut off before its own time was up.
        cut = limit < self._config.timeout_s
        return [self._late() if cut and x == TIMED_OUT else x for x in checked]

    def _late(self) -> Failed:
        """The error of a check that the deadline of the whole call cut off or left out."""
        place = getattr(self._task, "place", "")
        reason = (
            f"the {self._config.deadline_s:g} s of rewards.deadline_s, for all answers graded together, were over "
            "before it was checked (raise it, or rewards.workers)"
        )
        return Failed(TIMED_OUT, f"{place}: {reason}" if place else reason)

    async def _count(self, outcome: Outcome, prompt: Prompt) -> None:
        """Counts an error; after too many in a row, checks whether the task is at fault."""
        if not isinstance(outcome, str):
            self._errors_in_a_row = 0
            self._say_parts(outcome, prompt)
            return
        self._counts[outcome] += 1
        self._errors_in_a_row += 1
        self._say_why(outcome, prompt)
        limit = self._config.max_errors_in_a_row
        if limit is not None and self._errors_in_a_row > limit:
            await self._check_right_answer(prompt)
            self._errors_in_a_row = 0

    def _say_why(self, outcome: str, prompt: Prompt) -> None:
        """Warns of an error of the user's own reward, once per line of it."""
        reason = self.why(outcome)
        # Of those that took too long some were cut off by the deadline, which another key mends.
        place = reason if outcome == TIMED_OUT else reason.partition(": ")[0]
        if not getattr(self._task, "place", "") or place in self._warned:
            return
        self._warned.add(place)
        if len(self._warned) <= WARNINGS:
            self._warn(
                f"the reward failed on an answer to {prompt.prompt_id} ({outcome}), {reason}. It "
                f"counts as rewards.reward_on_error={self._config.reward_on_error:g}, and in "
                "reward/errors; further failures at this line are only counted."
            )

    def _say_parts(self, outcome: Outcome, prompt: Prompt) -> None:
        """Warns of a part that other rewards have or lack, once per part."""
        parts = set(parts_of(outcome))
        changed = {
            **{name: "lacks a part that others had" for name in self._parts - parts},
            **{name: "has a part that others lacked" for name in parts - self._parts},
        }
        known, self._parts = bool(self._parts), self._parts | parts
        for name in sorted(changed if known and parts else ()):
            key = f"part {name}"
            if key not in self._warned and len(self._warned) < WARNINGS:
                self._warned.add(key)
                place = getattr(self._task, "place", "")
                self._warn(
                    f"{place}: the reward of an answer to {prompt.prompt_id} {changed[name]}, "
                    f"{name}: where it is missing it counts 0, in the reward and in "
                    f"reward/{name}_mean. Return every part each time."
                )

    async def _check_right_answer(self, prompt: Prompt) -> None:
        """Raises RewardError if the check of the right answer fails too.

        A policy that writes what no check can read must not stop the run; a broken task must. The
        right answer is tried in each of the forms that tasks ask for: a check that wants it in tags
        would not come as far as its fault with a bare one.
        """
        right = [(prompt, (form.format(prompt.answer),)) for form in FORMS]
        if self._task.isolated:
            # Behind those that wait for a lane it would be late: no fault of the task.
            timeout_s = self._config.timeout_s
            outcomes = [(await self._pool.check([item], timeout_s))[0] for item in right]
        else:
            outcomes = check_all(self._task, right)
        errors = [outcome for outcome in outcomes if isinstance(outcome, str)]
        paid = any(
            not isinstance(outcome, str) and (outcome > 0 or is_right(outcome, prompt))
            for outcome in outcomes
        )
        if errors and not paid:
            outcome = errors[0]
            raise RewardError(
                f"the checks of {self._errors_in_a_row} answers in a row failed, and then the "
                f"check of the right one ({prompt.answer!r} of prompt {prompt.prompt_id}: "
                f"{reason_of(outcome) or outcome}; in all: {self._counts}). The task's grade() is at fault, not the "
                "answers: try it on that one by hand. To go on all the same: "
                "rewards.max_errors_in_a_row=null."
            )
