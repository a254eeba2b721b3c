"""Teacher files for OGER: written by the embedded task's solver, or graded once by a task's own check."""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

from isentropic.experiments.hydra_main import CONF, DONE, refuse
from isentropic.experiments.settings.load import load
from isentropic.methods.oger.offline_set import CORRECT
from isentropic.methods.oger.teachers import (
    ArithmeticTeachers,
    TeacherResponse,
    load_source,
    read_teachers,
    write_teachers,
)
from isentropic.records import Prompt, Rollout, RolloutKey
from isentropic.tasks import TASKS
from isentropic.tasks.base import Task
from isentropic.tasks.grading.rewards import RewardsConfig, RewardWorkers

CHUNK = 2048  # responses that are checked at once


def main(arguments: Sequence[str] | None = None) -> int:
    """The program of jobs/make_teachers.py, see `--help`; returns its exit code."""
    options = _options(arguments)
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            config = load(compose("config", options.overrides))
        task = TASKS[config.task.name].make(config.task)
        if options.grade is None:
            rows = solve(task, options.prompts, options.samples)
        else:
            given = [row for path in options.grade for row in read_teachers(path)]
            rows = grade(given, task, config.rewards)
    except ValueError as error:
        return refuse(str(error))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    count = write_teachers(options.out, rows)
    right = sum(row.reward >= CORRECT for row in rows)
    print(
        f"{options.out}: {count} responses of {len({row.teacher for row in rows})} teachers, {right} right"
    )
    return DONE


def solve(task: Task, prompts: int, samples: int) -> list[TeacherResponse]:
    """Responses of the embedded task's solver, a teacher a style, to the first `prompts` train prompts."""
    assert isinstance(load_source("embedded", task), ArithmeticTeachers)  # refuses other tasks
    source = ArithmeticTeachers(task, samples)
    chosen = [task.prompt("train", index) for index in range(min(prompts, task.size("train")))]
    rows = [(prompt, row) for prompt in chosen for row in source.responses(prompt)]
    return [replace(row, reward=task.grade(prompt, [row.text])) for prompt, row in rows]


def grade(
    rows: Sequence[TeacherResponse], task: Task, config: RewardsConfig
) -> list[TeacherResponse]:
    """The rows with the task's reward, checked in killable processes where the task asks for it.

    Raises:
        ValueError: rows whose prompt the task does not have.
    """
    prompts = {
        prompt.prompt_id: prompt
        for prompt in (task.prompt("train", i) for i in range(task.size("train")))
    }
    unknown = [row.prompt_id for row in rows if row.prompt_id not in prompts]
    if unknown:
        raise ValueError(
            f"{len(unknown)} responses are to prompts that the train split does not have, the first {unknown[0]!r}; "
            f"it has ids such as {next(iter(prompts))!r}. Choose the task and file that the teachers answered."
        )
    workers = RewardWorkers(task, _Given([row.text for row in rows]), config)
    rollouts = [_rollout(index, prompts[row.prompt_id]) for index, row in enumerate(rows)]
    try:
        rewards = asyncio.run(_in_chunks(workers, rollouts))
    finally:
        workers.close()
    return [replace(row, reward=reward) for row, reward in zip(rows, rewards, strict=True)]


async def _in_chunks(workers: RewardWorkers, rollouts: Sequence[Rollout]) -> list[float]:
    """Each chunk has the deadline that a step's rollouts have."""
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


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Makes a JSONL file of teacher responses for oger.teachers: by the arithmetic task's solver, or, "
        "with --grade, from files of responses, adding the reward of the chosen task."
    )
    parser.add_argument("out", type=Path, help="JSONL file to write")
    parser.add_argument(
        "--grade", type=Path, action="append", help="JSONL or parquet file; may be repeated"
    )
    parser.add_argument(
        "--prompts", type=int, default=1024, help="train prompts that the solver answers"
    )
    parser.add_argument("--samples", type=int, default=1, help="responses of each style, at most")
    parser.add_argument(
        "overrides", nargs="*", help="Hydra overrides, such as task=math task.path=problems.jsonl"
    )
    return parser.parse_intermixed_args(arguments)
