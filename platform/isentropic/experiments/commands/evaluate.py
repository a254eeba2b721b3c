"""Scores a run's checkpoint on held-out prompts: python jobs/evaluate.py run=<name> samples=16

The line is appended to <run>/evaluations.jsonl. Prompts and seeds are those of the run's own
evaluations.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from isentropic.checks import check_choice
from isentropic.config import Config
from isentropic.controller.storage.checkpoints import listed
from isentropic.experiments.program import program
from isentropic.experiments.run.recorded import RecordedRun, recorded_run
from isentropic.experiments.settings.checks import check_evaluation
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.conf import choices
from isentropic.experiments.settings.load import MISSING, load
from isentropic.experiments.settings.options import Option, Options, count, number, text
from isentropic.metrics.sinks.jsonl import append_row

LAST = "last"
START = "start"
EVALUATION = ("samples", "prompts", "temperature", "top_p")  # options that are keys of evaluation


def checkpoint_step(name: str, value: str) -> int | str:
    """Take the number of a step, last or start."""
    if value in (LAST, START):
        return value
    return count(name, value, at_least=0, hint=f"Or: {LAST}, {START}.")


OPTIONS = Options(
    "evaluate",
    __doc__,
    (
        Option(
            "run", "<folder or name>", "a run folder, or a name under runs/", text, required=True
        ),
        Option(
            "step",
            "<number>|last|start",
            "of the checkpoint; start: the weights before the first step (default: last)",
            checkpoint_step,
        ),
        Option("samples", "<count>", "k of avg@k and pass@k (default: the run's)", count),
        Option("prompts", "<count>", "held-out prompts, at most (default: all)", count),
        Option("temperature", "<number>", "of the samples (default: the run's)", number),
        Option("top_p", "<number>", "of the samples (default: the run's)", number),
        Option(
            "task",
            "<name>",
            "another task's held-out set, by its preset in conf/task, such as math500; its keys may "
            "follow: task.eval_path=<file>",
            text,
        ),
    ),
    words="run",
    takes_overrides=True,
)


def run_evaluation(options: dict[str, Any], overrides: list[str]) -> None:
    """Evaluate, and keep the line."""
    run = recorded_run(options["run"])
    config = evaluated_config(run, options, overrides)
    checkpoint = checkpoint_of(run, options.get("step", LAST))
    from isentropic.models.source import model_folder

    # A model that is made on the spot was made on the run's own task.
    path = model_folder(run.config.model, run.config.task)
    config = replace(config, model=replace(config.model, path=path))
    line = asyncio.run(evaluate(config, checkpoint))
    record(run.folder, {"step": step_of(checkpoint)} | line)


def evaluated_config(
    run: RecordedRun, options: Mapping[str, Any], overrides: Sequence[str] = ()
) -> Config:
    """Return the run's config, with what is evaluated otherwise than it did.

    Raises:
        ValueError: overrides of anything but the task that is given.
    """
    config = run.config
    for override in overrides:
        if "task" not in options or not override.startswith("task."):
            raise ValueError(
                f"{override!r} is no option of evaluate. With task=<name>, keys of that task may "
                "follow: task.<key>=<value>."
            )
    if "task" in options:
        check_choice("task", options["task"], choices("task"))
        cfg = compose([f"task={options['task']}", *overrides])
        task = OmegaConf.to_container(cfg.task, resolve=True)
        config = load(OmegaConf.create(run.values | {"task": _held_out(task)}))
    values = {key: options[key] for key in EVALUATION if key in options}
    values.setdefault("prompts", sys.maxsize)
    config = replace(config, evaluation=replace(config.evaluation, **values))
    check_evaluation(config)
    return config


def _held_out(task: dict[str, Any]) -> dict[str, Any]:
    """Return the task's values; a benchmark needs no problems to train on."""
    if task.get("path") == MISSING and task.get("eval_path"):
        return task | {"path": task["eval_path"], "train_split": task["eval_split"]}
    return task


def checkpoint_of(run: RecordedRun, step: int | str) -> Path | None:
    """Return the checkpoint's folder; None for the start.

    Raises:
        ValueError: there is none of that step.
    """
    if step == START:
        return None
    found = run.checkpoint_before(sys.maxsize if step == LAST else step)
    if found is None or (step != LAST and found[1].step != step):
        steps = ", ".join(map(str, listed(run.folder / "checkpoints"))) or "none"
        raise ValueError(
            f"{run.folder} has no whole checkpoint of step {step}; it has: {steps}. step=start "
            "needs none."
        )
    return found[0]


def step_of(checkpoint: Path | None) -> int:
    """Return the step of a checkpoint's folder; 0 for the start."""
    return int(checkpoint.name.removeprefix("step_")) if checkpoint else 0


async def evaluate(config: Config, checkpoint: Path | None) -> dict[str, Any]:
    """Start engines with the checkpoint's weights; score their answers to the held-out prompts."""
    from isentropic.controller.sampler import DrawnFrom, Sampler
    from isentropic.experiments.run.assemble import own_actors
    from isentropic.experiments.run.prepare import prepare
    from isentropic.methods.slots import Wave
    from isentropic.metrics.evaluation import evaluation_metrics
    from isentropic.tasks.grading.rewards import RewardWorkers

    prepared, evaluation = prepare(config), config.evaluation
    grader = RewardWorkers(prepared.task, prepared.chat, config.rewards)
    try:
        async with own_actors(config, prepared) as actors:
            if checkpoint is not None:
                await actors.learner.load(checkpoint / "learner")
            weights = await actors.learner.publish()
            await actors.pool.load_weights(weights)
            sampler = Sampler(
                task=prepared.task,
                chat=prepared.chat,
                pool=actors.pool,
                grader=grader,
                config=config.rollout,
                seed=config.seed,
                window=config.model.max_length,
            )
            wave = Wave(
                group_size=evaluation.samples,
                temperature=evaluation.temperature,
                top_p=evaluation.top_p,
            )
            step = step_of(checkpoint)
            origin = DrawnFrom(step=step, source_step=step, policy_version=weights.policy_version)
            prompts = min(evaluation.prompts, prepared.task.size("eval"))
            groups = await sampler.draw_evaluation("eval", prompts, wave, origin)
    finally:
        grader.close()
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    line = {
        "policy_version": weights.policy_version,
        "task": config.task.name,
        "prompts": prompts,
        "samples": evaluation.samples,
        "temperature": evaluation.temperature,
        "top_p": evaluation.top_p,
    }
    return line | evaluation_metrics({config.task.name: rollouts}, evaluation.samples)


def record(folder: Path, line: Mapping[str, Any]) -> None:
    """Append the line to evaluations.jsonl, and show it."""
    append_row(folder / "evaluations.jsonl", line)
    for key, value in line.items():
        print(f"{key:<32} {value:.4f}" if isinstance(value, float) else f"{key:<32} {value}")
    print(folder / "evaluations.jsonl")


main = program(run_evaluation, OPTIONS)
