"""python jobs/evaluate.py run=<folder|name> samples=16

run=          a run folder, or a name under runs/
step=         of the checkpoint: a number, last (default), or start for the weights before the first step
samples=      k of avg@k and pass@k (default: the run's)
prompts=      held-out prompts, at most (default: all)
temperature=, top_p=   of the samples (default: the run's evaluation)
task=         another task's held-out set, by its preset in conf/task

The line is appended to <run>/evaluations.jsonl. Prompts and seeds are those of the run's own evaluations.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from isentropic.checks import check_choice, check_range
from isentropic.config import Config
from isentropic.controller.storage.checkpoints import listed
from isentropic.experiments.hydra_main import BAD_INPUT, CONF, is_ours, refuse
from isentropic.experiments.run.recorded import RecordedRun, recorded_run
from isentropic.experiments.settings.load import load
from isentropic.folders import use_durable_folders

NUMBERS = {"samples": int, "prompts": int, "temperature": float, "top_p": float}
OPTIONS = ("run", "step", "task", *NUMBERS)


def main(arguments: Sequence[str] | None = None) -> None:
    """The program; exits with 2 on bad input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or set(given) & {"-h", "--help"}:
        print(__doc__)
        sys.exit(0 if given else BAD_INPUT)
    use_durable_folders()
    try:
        options = options_of(given)
        run = recorded_run(options["run"])
        config, checkpoint = (
            evaluated_config(run, options),
            checkpoint_of(run, options.get("step", "last")),
        )
        line = asyncio.run(evaluate(config, checkpoint))
    except ValueError as error:
        if not is_ours(error):
            raise
        sys.exit(refuse(str(error)))
    record(run.folder, {"step": step_of(checkpoint)} | line)


def options_of(arguments: Sequence[str]) -> dict[str, str]:
    """key=value by key. Raises ValueError for a key that is none of ours."""
    options = {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        check_choice("option", key, OPTIONS)
        options[key] = value
    if "run" not in options:
        raise ValueError("which run? Give run=<folder or name>; --help shows all options.")
    return options


def evaluated_config(run: RecordedRun, options: Mapping[str, str]) -> Config:
    """The run's config, with what is evaluated otherwise than it did."""
    config = run.config
    if "task" in options:
        known = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))
        check_choice("task", options["task"], known)
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            task = OmegaConf.to_container(
                compose("config", overrides=[f"task={options['task']}"]).task, resolve=True
            )
        config = load(OmegaConf.create(run.values | {"task": task}))
    values: dict[str, Any] = {"prompts": sys.maxsize}
    for key, kind in NUMBERS.items():
        if key in options:
            try:
                values[key] = kind(options[key])
            except ValueError:
                raise ValueError(f"{key} must be a number, got {options[key]!r}.") from None
    return replace(config, evaluation=replace(config.evaluation, **values))


def checkpoint_of(run: RecordedRun, step: str) -> Path | None:
    """The checkpoint's folder; None for the start. Raises ValueError where there is none of that step."""
    if step == "start":
        return None
    if step != "last":
        check_range(
            "step", int(step) if step.isdigit() else -1, at_least=0, hint="Or: last, start."
        )
    found = run.checkpoint_before(sys.maxsize if step == "last" else int(step))
    if found is None or (step != "last" and found[1].step != int(step)):
        has = ", ".join(map(str, listed(run.folder / "checkpoints"))) or "none"
        raise ValueError(
            f"{run.folder} has no whole checkpoint of step {step}; it has: {has}. step=start needs none."
        )
    return found[0]


def step_of(checkpoint: Path | None) -> int:
    return int(checkpoint.name.removeprefix("step_")) if checkpoint else 0


async def evaluate(config: Config, checkpoint: Path | None) -> dict[str, Any]:
    """Engines with the checkpoint's weights, and what they score on the held-out prompts."""
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
    about = {"policy_version": weights.policy_version, "task": config.task.name, "prompts": prompts}
    about |= {
        "samples": evaluation.samples,
        "temperature": evaluation.temperature,
        "top_p": evaluation.top_p,
    }
    return about | evaluation_metrics({config.task.name: rollouts}, evaluation.samples)


def record(folder: Path, line: Mapping[str, Any]) -> None:
    """Appends the line to evaluations.jsonl, and shows it."""
    from isentropic.metrics.sinks.jsonl import JsonlFile

    file = JsonlFile(folder / "evaluations.jsonl", resume_step=sys.maxsize)
    file.write(line)
    file.close()
    for key, value in line.items():
        print(f"{key:<32} {value:.4f}" if isinstance(value, float) else f"{key:<32} {value}")
    print(folder / "evaluations.jsonl")
