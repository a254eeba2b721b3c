"""A first call of the user's reward, before anything starts: one that always fails is refused."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from isentropic.tasks.base import FORMS, Task
from isentropic.tasks.chat import Chat
from isentropic.tasks.grading.pool import RewardError
from isentropic.tasks.grading.rewards import RewardsConfig, RewardWorkers


def try_reward(task: Task, chat: Chat, config: RewardsConfig) -> None:
    """Has workers grade the first prompt's answer in its usual forms, and an empty one.

    Does nothing for tasks that are graded by our own code.

    Raises:
        ValueError: every check failed, with file and line of the first failure.
    """
    if not getattr(task, "place", ""):
        return
    prompt = task.prompt("train", 0)
    responses = [form.format(prompt.answer) for form in FORMS if prompt.answer] + [""]
    reasons = _reasons(task, chat, config, [(prompt, (response,)) for response in responses])
    if all(reasons):
        raise ValueError(
            f"the reward fails on all of {len(responses)} answers to the first prompt "
            f"({prompt.prompt_id}), the right one too: {reasons[0]}."
            if prompt.answer
            else f"the reward fails on an empty answer to the first prompt ({prompt.prompt_id}): "
            f"{reasons[0]}. A policy will write one: pay it what it is worth."
        )


def _reasons(task: Task, chat: Chat, config: RewardsConfig, items: Sequence) -> list[str]:
    """Returns what went wrong with each item; "" if nothing did."""
    workers = RewardWorkers(task, chat, config)
    # Not in this thread: its own event loop may be running.
    with ThreadPoolExecutor(1) as thread:
        try:
            outcomes = thread.submit(asyncio.run, workers.check(items)).result()
        except RewardError as error:
            raise ValueError(str(error)) from error
        finally:
            workers.close()
    return [workers.why(outcome) for outcome in outcomes]
