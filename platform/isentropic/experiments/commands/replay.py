"""Trains one recorded step again and compares: python jobs/replay.py run=<name> step=17

Without overrides every number must be equal on CPU float32; with overrides the difference is what
was asked for.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from isentropic.config import Config
from isentropic.experiments.branch.arms import settings_of_run
from isentropic.experiments.program import program
from isentropic.experiments.run.recorded import RecordedRun, recorded_run
from isentropic.experiments.settings.options import Option, Options, count, flag, text
from isentropic.experiments.settings.overrides import as_typed
from isentropic.objectives.loss.needs import needs_reference

SHOWN = 12  # differences that are printed
OPTIONS = Options(
    "replay",
    __doc__,
    (
        Option(
            "run", "<folder or name>", "a run folder, or a name under runs/", text, required=True
        ),
        Option("step", "<number>", "the step to train again", count, required=True),
        Option(
            "exact",
            "true|false",
            "true: as many learner ranks as the run had, over Ray (default); false: one rank in "
            "this process",
            flag,
        ),
    ),
    words="run",
    takes_overrides=True,
)


def replay(options: dict[str, Any], overrides: list[str]) -> int:
    """Trains the step from the state before it and prints how it compares; the exit code.

    Without overrides, on the recorded number of ranks, every number must be equal on CPU float32:
    else the code is 1. With overrides the difference is what the user wants to see.
    """
    step = options["step"]
    exact = options.get("exact", True)
    run = recorded_run(options["run"])
    run.batch(step)  # refused now, not after the walk
    arm = settings_of_run(run.values, {"replay": as_typed(overrides)})[0]
    line, same_weights = asyncio.run(replay_step(run, step, arm.config, exact=exact))
    if same_weights is not None:
        equal = "" if same_weights else "NOT "
        print(f"weights and optimizer are {equal}those of the checkpoint, bit for bit")
    return _print_comparison(run, step, line, exact=exact, overrides=overrides)


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
    run.say_changed_data(prepared.data)
    run = replace(run, vocab_size=prepared.chat.vocab_size)
    reference = any(needs_reference(each.objective, each.terms) for each in (config, run.config))
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
    recorded = run.lines[step]
    # A run of an older version lacks the numbers that came later: there is nothing to compare.
    known = {key: value for key, value in line.items() if key in recorded}
    changed = differences(recorded, known)
    print(
        f"step {step}: {len(known) - len(changed)} of {len(known)} numbers equal the recorded line "
        "bit for bit"
    )
    if later := sorted(line.keys() - known.keys()):
        print(f"  not in the recorded line: {', '.join(later)}")
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


main = program(replay, OPTIONS, go_on="the same command begins again")
