"""A first call of the user's reward, before anything starts: one that always fails is refused."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from isentropic.records import Prompt
from isentropic.tasks.base import FORMS, Task
from isentropic.tasks.chat import Chat
from isentropic.tasks.grading.outcome import Outcome, parts_of
from isentropic.tasks.grading.pool import RewardError
from isentropic.tasks.grading.rewards import RewardsConfig, RewardWorkers
from isentropic.tasks.own.reward import row_of

MOST_COLUMNS = 8  # whose values are tried as answers where there is no gold
LONGEST = 200  # characters of one: what is longer is a text, not an answer
NONE_MORE = (
    "NOTHING THAT THE FIRST ROW HOLDS IS PAID MORE THAN AN EMPTY ANSWER, written plainly, in a box, behind # or "
    "####, or in <answer> tags. Tried were the columns {}. See how the reward reads answers before you run "
    "it; task.answer_column names the gold."
)
NO_MORE = (
    "A RIGHT ANSWER IS PAID NO MORE THAN A WRONG ONE, written plainly, in a box, behind # or ####, or "
    "in <answer> tags. See how the task reads answers before you run it."
)

log = logging.getLogger(__name__)


def try_reward(
    task: Task, chat: Chat, config: RewardsConfig, *, warn: Callable[[str], None] = log.warning
) -> None:
    """Has workers grade the first prompt's answer in its usual forms, a wrong and an empty one.

    Without a gold each value of the prompt's row is tried in the right one's place: one of them may be it.

    Does nothing for tasks that are graded by our own code.

    Args:
        warn: is told if a right answer is paid no more than a wrong one, or nothing more than "".

    Raises:
        ValueError: every check of a right answer failed, or, without a gold, of an empty one, with
            file and line of the first failure; or the rewards have other parts from answer to answer.
    """
    if not getattr(task, "place", ""):
        return
    prompt = task.prompt("train", 0)
    if not prompt.answer:
        _try_row(task, chat, config, prompt, warn)
        return
    right = [form.format(prompt.answer) for form in FORMS]
    # Two at least: a batch of one does not show whether each answer gets a reward.
    wrong = [form.format(wrong_answer(task, prompt)) for form in FORMS]
    responses = [*right, *wrong, ""]
    items = [(prompt, (response,)) for response in responses]
    outcomes, reasons = _tried(task, chat, config, items)
    if all(reasons[: len(right)]):
        raise ValueError(
            f"the reward fails on the right answer to the first prompt ({prompt.prompt_id}), "
            f"{prompt.answer!r}, in all of {len(right)} forms: {reasons[0]}."
        )
    _check_parts(outcomes, responses, task.place)
    paid = dict(zip(responses, outcomes, strict=True))
    if not any(
        is_more(paid[good], paid[bad], paid[""]) for good, bad in zip(right, wrong, strict=True)
    ):
        warn(f"{task.place}: {NO_MORE}")


def _try_row(
    task: Task, chat: Chat, config: RewardsConfig, prompt: Prompt, warn: Callable[[str], None]
) -> None:
    """Has workers grade empty answers, and each value of the row in the usual forms."""
    # Of a class of the user's own nobody knows what its metadata holds.
    values = _values(prompt) if hasattr(task, "grade_together") else {}
    # Two empty ones: a batch of one does not show whether each answer gets a reward.
    responses = ["", "", *(form.format(value) for value in values.values() for form in FORMS)]
    outcomes, reasons = _tried(
        task, chat, config, [(prompt, (response,)) for response in responses]
    )
    if all(reasons[:2]):
        raise ValueError(
            f"the reward fails on an empty answer to the first prompt ({prompt.prompt_id}), "
            f"which a policy will write: {reasons[0]}."
        )
    _check_parts(outcomes, responses, task.place)
    empty = next(outcome for outcome in outcomes[:2] if not isinstance(outcome, str))
    if values and not any(is_more(outcome, empty) for outcome in outcomes[2:]):
        warn(f"{task.place}: {NONE_MORE.format(', '.join(values))}")


def _values(prompt: Prompt) -> dict[str, Any]:
    """Returns the texts and numbers of the row that a prompt was made of, by column."""
    asked = {message["content"].strip() for message in prompt.messages}
    values = {
        name: value
        for name, value in row_of(prompt).items()
        if isinstance(value, str | int | float)
        and 0 < len(str(value)) <= LONGEST
        and str(value).strip() not in asked
    }
    return dict(list(values.items())[:MOST_COLUMNS])


def is_more(right: Outcome, *others: Outcome) -> bool:
    """Returns whether a right answer is paid, and more than the others; errors are not paid."""
    return not isinstance(right, str) and all(isinstance(x, str) or right > x for x in others)


def wrong_answer(task: Task, prompt: Prompt) -> str:
    """Returns the answer to another prompt, or what is none."""
    others = [task.prompt("train", index).answer for index in range(1, min(2, task.size("train")))]
    return next((answer for answer in others if answer != prompt.answer), f"not {prompt.answer}")


def _check_parts(outcomes: Sequence[Outcome], responses: Sequence[str], place: str) -> None:
    """Refuses parts that come and go: the mean of each would be over other answers."""
    paid = {
        response: parts_of(outcome)
        for response, outcome in zip(responses, outcomes, strict=True)
        if not isinstance(outcome, str)
    }
    every = dict.fromkeys(name for parts in paid.values() for name in parts)
    for response, parts in paid.items():
        if missing := [name for name in every if name not in parts]:
            other = next(text for text, more in paid.items() if missing[0] in more)
            raise ValueError(
                f"{place}: the reward of the answer {response!r} to the first prompt has no part "
                f"{', '.join(missing)}, which that of {other!r} has. Return every part each time, 0 "
                "for what does not apply: in reward/<part>_mean, and in their sum, it counts as that."
            )


def _tried(
    task: Task, chat: Chat, config: RewardsConfig, items: Sequence
) -> tuple[list[Outcome], list[str]]:
    """Returns the outcome of each item, and what went wrong with it; "" if nothing did."""
    workers = RewardWorkers(task, chat, config)
    # Not in this thread: its own event loop may be running.
    with ThreadPoolExecutor(1) as thread:
        try:
            outcomes = thread.submit(asyncio.run, workers.check(items)).result()
        except RewardError as error:
            raise ValueError(str(error)) from error
        finally:
            workers.close()
    return outcomes, [workers.why(outcome) for outcome in outcomes]
