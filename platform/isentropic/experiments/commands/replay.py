"""python jobs/branch.py replay run=<folder|name> step=17: trains one recorded step again."""

import asyncio
from collections.abc import Mapping
from typing import Any

from isentropic.checks import check_choice
from isentropic.config import Config
from isentropic.experiments.branch.arms import settings_of_run
from isentropic.experiments.run.recorded import RecordedRun, recorded_run

SHOWN = 12  # differences that are printed


def replay(options: dict[str, str], overrides: list[str]) -> int:
    """Trains the step from the state before it and prints how it compares; the exit code.

    Without overrides, on the recorded number of ranks, every number must be equal on CPU float32:
    else the code is 1. With overrides the difference is what the user wants to see.
    """
    step = options.get("step") or options.get("steps", "")
    if not step.isdigit():
        raise ValueError(f"replay needs one step, step=17; got {step!r}.")
    check_choice("exact", options.get("exact", "true"), ("true", "false"))
    run = recorded_run(options["run"])
    run.batch(int(step))  # refused now, not after the walk
    setting = settings_of_run(run.values, {"replay": tuple(overrides)})[0]
    exact = options.get("exact", "true") == "true"
    line, same_weights = asyncio.run(replay_step(run, int(step), setting.config, exact=exact))
    if same_weights is not None:
        equal = "" if same_weights else "NOT "
        print(f"weights and optimizer are {equal}those of the checkpoint, bit for bit")
    return _print_comparison(run, int(step), line, exact=exact, overrides=overrides)


async def replay_step(
    run: RecordedRun, step: int, config: Config, *, exact: bool
) -> tuple[dict[str, Any], bool | None]:
    """The line of the step under `config`; whether the learner's state is that of its checkpoint.

    None: the step has no checkpoint. (The line depends on the new weights too:
    entropy/measured_change is measured under them.)
    """
    from isentropic.experiments.branch.learner import replay_learner
    from isentropic.experiments.branch.replayer import Replayer, walk_to
    from isentropic.experiments.run.prepare import prepare
    from isentropic.metrics.sinks.jsonl import plain

    prepared = prepare(run.config)
    reference = config.terms.kl is not None or run.config.terms.kl is not None
    async with replay_learner(
        run.config, prepared.model, exact=exact, reference=reference
    ) as learner:
        base = Replayer(run.config, learner, prepared)
        trained = await walk_to(run, base, step - 1, exact=True)
        print(f"state after step {step - 1}: {trained} recorded steps trained again", flush=True)
        again = base
        if config != run.config:
            await learner.remember()
            again = Replayer(config, learner, prepared)
            again.follow(base)
            await again.configure()
            await learner.recall()
        line = plain(await again.report(await again.train(run.batch(step))))
        checkpoint = run.checkpoint_before(step)
        if checkpoint is not None and checkpoint[1].step == step:
            await learner.remember()
            await learner.load(checkpoint[0] / "learner")
            return line, await learner.is_remembered()
        return line, None


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key -> (recorded, replayed), of all keys whose values differ."""
    return {key: (old.get(key), value) for key, value in new.items() if old.get(key) != value}


def _print_comparison(
    run: RecordedRun, step: int, line: dict[str, Any], *, exact: bool, overrides: list[str]
) -> int:
    if step not in run.lines:
        print(f"step {step} was drawn but has no line in metrics.jsonl: nothing to compare with.")
        return 0
    changed = differences(run.lines[step], line)
    print(
        f"step {step}: {len(line) - len(changed)} of {len(line)} numbers equal the recorded line "
        "bit for bit"
    )
    numbers = {
        key: pair
        for key, pair in changed.items()
        if all(isinstance(value, int | float) for value in pair)
    }
    ranked = sorted(numbers.items(), key=lambda item: -_relative(*item[1]))
    for key, (old, new) in ranked[:SHOWN]:
        print(f"  {key:<32} {old:>14.8g} -> {new:>14.8g}")
    if len(ranked) > SHOWN:
        print(f"  and {len(ranked) - SHOWN} more")
    return 1 if changed and exact and not overrides and not run.config.cluster.gpus_per_rank else 0


def _relative(old: float, new: float) -> float:
    return abs(new - old) / max(abs(old), abs(new), 1e-12)
