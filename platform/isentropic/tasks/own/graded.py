"""What a task has beside its own check if `task.reward` may take the check's place."""

from collections.abc import Callable, Sequence

from isentropic.records import Prompt
from isentropic.tasks.grading.worker import Item
from isentropic.tasks.own.reward import OwnReward


class MayBeGraded:
    """Base of such tasks; `_reward` is the user's, or None. The task's `grade` asks it first."""

    _reward: OwnReward | None

    @property
    def place(self) -> str:
        """Where the user's reward begins, as file:line; "" if it is ours."""
        return "" if self._reward is None else self._reward.place

    @property
    def evaluator(self) -> str:
        """What of the user's reward may run what an answer wrote; "" if nothing does."""
        return "" if self._reward is None else self._reward.evaluator

    @property
    def runs_code(self) -> bool:
        """Whether the user's reward may run code that an answer wrote."""
        return bool(self.evaluator)

    def enter_server(self) -> None:
        if self._reward is not None:
            self._reward.enter_server()

    def enter_worker(self) -> None:
        if self._reward is not None:
            self._reward.enter_worker()

    @property
    def grade_together(self) -> Callable[[Sequence[Item]], list[float | Exception]] | None:
        """Grades several answers in one call, if the user's reward does; else None."""
        together = self._reward is not None and self._reward.calls_together
        return self._reward.grade if together else None

    def _paid(self, prompt: Prompt, turns: Sequence[str], *, truncated: bool = False) -> float:
        """Returns what the user's reward pays, or raises its error."""
        assert self._reward is not None
        item = (prompt, tuple(turns), True) if truncated else (prompt, tuple(turns))
        (reward,) = self._reward.grade([item])
        if isinstance(reward, Exception):
            raise reward
        return reward
