"""What a task is, and the order in which its prompts are drawn."""

from collections.abc import Sequence
from typing import Protocol

from isentropic.records import Prompt

# The ways to write an answer down that tasks ask for.
FORMS = ("{}", "\\boxed{{{}}}", "#{}", "#### {}", "<answer>{}</answer>")
# What may count of a response that was cut off: an answer that it marks as one, or the last number.
TRUNCATED_ANSWERS = ("marked", "any")


class Task(Protocol):
    """Prompts by index and a reward for a response. Picklable: reward workers hold a copy."""

    # True: `grade` may hang, crash or run foreign code, so it runs in a killable process.
    isolated: bool
    max_turns: int  # 1: no environment answers

    def size(self, split: str) -> int:
        """Number of prompts of 'train' or 'eval'."""
        ...

    def prompt(self, split: str, index: int) -> Prompt:
        """The same prompt for the same (split, index), always."""
        ...

    def grade(self, prompt: Prompt, turns: Sequence[str]) -> float:
        """Reward of an episode, from the policy's turns as `Chat.decode` writes them.

        A right one gets `prompt.reward_right` (1 if the task's prompts do not say), others less.
        """
        ...

    # A task that must know may have, beside `grade`, a `grade_truncated` of the same form: for an
    # episode whose last turn was cut off at the limit of tokens. See `reward_of`.
    #
    # What is graded by a user's own code has a `place` too (file:line of its function, which errors
    # name), and may have a `grade_together(items)` for a batch and an `enter_worker()` for what a
    # worker must open before it is walled off, and an `enter_server()` for what no worker must repeat. See
    # `grading.worker`. If `grade` may run code that an answer wrote, `runs_code = True`, and `evaluator`
    # says what does: each answer is then checked in a process of its own.

    def reply(self, prompt: Prompt, turns: Sequence[str]) -> str | None:
        """The environment's (or tool's) text after the last turn; None ends the episode."""
        ...


def reward_of(task: Task, prompt: Prompt, turns: Sequence[str], *, truncated: bool) -> float:
    """Grades an episode by what the task says of cut off ones, if that is what it is."""
    grade = getattr(task, "grade_truncated", task.grade) if truncated else task.grade
    return grade(prompt, turns)
