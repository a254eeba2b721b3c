"""Makes teacher responses for oger.teachers: python jobs/make_teachers.py out=<file>.jsonl

The arithmetic task's solver writes them; with grade=, given responses get the reward of the chosen
task. All else are overrides of the config, such as task=math task.path=problems.jsonl.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from isentropic.experiments.program import program
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.load import load
from isentropic.experiments.settings.options import Option, Options, count, names, path
from isentropic.methods.oger.teachers import (
    ArithmeticTeachers,
    TeacherResponse,
    load_source,
    read_teachers,
    write_teachers,
)
from isentropic.records import Prompt, Rollout, RolloutKey, is_right
from isentropic.tasks import TASKS
from isentropic.tasks.base import Task
from isentropic.tasks.grading.rewards import RewardsConfig, RewardWorkers

CHUNK = 2048  # responses that are checked at once
OPTIONS = Options(
    "make_teachers",
    __doc__,
    (
        Option("out", "<file>", "JSONL file to write", path, required=True, writes=True),
        Option("grade", "<file>,...", "JSONL or parquet files of responses to grade", names),
        Option(
            "prompts", "<count>", "train prompts that the solver answers (default: 1024)", count
        ),
        Option("samples", "<count>", "responses of each style, at most (default: 1)", count),
    ),
    takes_overrides=True,
    old={"--out": "out=", "--grade": "grade=", "--prompts": "prompts=", "--samples": "samples="},
)


def make_teachers(options: dict[str, Any], overrides: list[str]) -> None:
    """Write the file, and say what it holds."""
    out: Path = options["out"]
    config = load(compose(overrides))
    task = TASKS[config.task.name].make(config.task)
    if "grade" in options:
        given = [row for file in options["grade"] for row in read_teachers(Path(file))]
        rows = grade(given, task, config.rewards)
    else:
        rows = solve(task, options.get("prompts", 1024), options.get("samples", 1))
    out.parent.mkdir(parents=True, exist_ok=True)
    total = write_teachers(out, rows)
    prompts = _train_prompts(task)
    right = sum(is_right(row.reward, prompts[row.prompt_id]) for row in rows)
    teachers = len({row.teacher for row in rows})
    print(f"{out}: {total} responses of {teachers} teachers, {right} right")


def solve(task: Task, prompts: int, samples: int) -> list[TeacherResponse]:
    """Answer the first train prompts by the embedded task's solver, one teacher per style."""
    # load_source refuses other tasks
    assert isinstance(load_source("embedded", task), ArithmeticTeachers)
    source = ArithmeticTeachers(task, samples)
    chosen = [task.prompt("train", index) for index in range(min(prompts, task.size("train")))]
    rows = [(prompt, row) for prompt in chosen for row in source.responses(prompt)]
    return [replace(row, reward=task.grade(prompt, [row.text])) for prompt, row in rows]


def grade(
    rows: Sequence[TeacherResponse], task: Task, config: RewardsConfig
) -> list[TeacherResponse]:
    """Return the rows with the task's reward, in killable processes if the task asks for it.

    Raises:
        ValueError: rows whose prompt the task does not have.
    """
    prompts = _train_prompts(task)
    unknown = [row.prompt_id for row in rows if row.prompt_id not in prompts]
    if unknown:
        raise ValueError(
            f"{len(unknown)} responses are to prompts that the train split does not have, the "
            f"first {unknown[0]!r}; it has ids such as {next(iter(prompts))!r}. Choose the task "
            "and file that the teachers answered."
        )
    workers = RewardWorkers(task, _Given([row.text for row in rows]), config)
    rollouts = [_rollout(index, prompts[row.prompt_id]) for index, row in enumerate(rows)]
    try:
        rewards = asyncio.run(_in_chunks(workers, rollouts))
    finally:
        workers.close()
    return [replace(row, reward=reward) for row, reward in zip(rows, rewards, strict=True)]


def _train_prompts(task: Task) -> dict[str, Prompt]:
    prompts = (task.prompt("train", index) for index in range(task.size("train")))
    return {prompt.prompt_id: prompt for prompt in prompts}


async def _in_chunks(workers: RewardWorkers, rollouts: Sequence[Rollout]) -> list[float]:
    """Grade chunk by chunk: each has the deadline that a step's rollouts have."""
    chunks = [rollouts[start : start + CHUNK] for start in range(0, len(rollouts), CHUNK)]
    return [reward for chunk in chunks for reward in await workers.grade(chunk)]


class _Given:
    """Stands for the chat: the text of sample i is the i-th one given."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def turn_texts(self, rollout: Rollout) -> list[str]:
        return [self._texts[rollout.key.sample]]


def _rollout(index: int, prompt: Prompt) -> Rollout:
    return Rollout(
        key=RolloutKey("train", 0, 0, index),
        prompt=prompt,
        token_ids=np.zeros(0, dtype=np.int64),
        turns=(),
        rollout_logprob=np.zeros(0, dtype=np.float32),
        temperature=1.0,
        seed=0,
        finish_reason="stop",
        step=0,
        policy_version=0,
    )


main = program(make_teachers, OPTIONS)
