"""T3 over several seeds: branches of each run, their points pooled, as many as its power asks for."""

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from isentropic.durable import write_text_durably
from isentropic.experiments.branch.arms import preset_settings, settings_of_run
from isentropic.experiments.branch.places import evenly, room_for_processes
from isentropic.experiments.results.numbers import mean
from isentropic.experiments.results.parts import Part
from isentropic.experiments.results.plan import Planned
from isentropic.experiments.results.power import points_needed
from isentropic.experiments.run.recorded import recorded_run
from isentropic.experiments.statements.branches import differences_of, orders
from isentropic.metrics.report.branches import BRANCHES, SETTINGS, Branches
from isentropic.metrics.sinks.jsonl import read_lines

PILOT = "t3_pilot"
CONTEXTS = 256  # rollouts, of the step trained on and of each of two others
ORDERS = 1  # of prompts per point: with ten settings, more points cost less than more orders


def make_branches(
    part: Part,
    runs: Sequence[Planned],
    points: int,
    folder: Path,
    *,
    processes: int | None,
    say: Callable[[str], None],
) -> Path:
    """Branch each run at `points` evenly spread steps; return the folder that pools their rows.

    What an earlier start has made stays.
    """
    # torch: after everything was checked
    from isentropic.experiments.branch.branch import branch
    from isentropic.experiments.branch.point import Comparison
    from isentropic.experiments.run.prepare import prepare

    named = preset_settings(part.branching.sweep)
    made = {}
    for planned in runs:
        run = recorded_run(str(planned.folder))
        prepared = prepare(run.config)
        comparison = Comparison(
            run=replace(run, vocab_size=prepared.chat.vocab_size),
            settings=tuple(settings_of_run(run.values, named)),
            exact=False,
            contexts=CONTEXTS,
            orders=ORDERS,
        )
        out = run.folder / "branches" / Path(part.branching.sweep).stem
        say(f"{run.folder.name}: {points} branch points of {len(named)} settings, {out}")
        steps = evenly(possible_points(run.steps), points)
        processes = processes or room_for_processes(run.config)
        asyncio.run(branch(comparison, prepared, steps, out, processes=processes, say=say))
        made[out] = steps
    return pool(made, folder)


def possible_points(steps: Sequence[int]) -> list[int]:
    """Return the steps that branches may start after.

    Not the start: AdamW knows nothing yet, and its first update is too large to compare by.
    """
    return [step - 1 for step in steps if step > 1]


def pool(folders: Mapping[Path, Sequence[int]], folder: Path) -> Path:
    """Put the rows of several branch folders into one; each row names its run.

    Args:
        folders: with the branch points that are asked for: an earlier start may have made others.

    Raises:
        ValueError: their settings differ.
    """
    settings = {(each / SETTINGS).read_text(encoding="utf-8") for each in folders}
    if len(settings) > 1:
        raise ValueError(
            f"{', '.join(map(str, folders))} have branches of different settings. Remove them: "
            "they are made again."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_text_durably(folder / SETTINGS, settings.pop())
    rows = [
        json.dumps(row) + "\n"
        for each, points in folders.items()
        for row in read_lines(each / BRANCHES)[0]
        if row["step"] in points
    ]
    write_text_durably(folder / BRANCHES, "".join(rows))
    return folder


def points_asked(folder: Path, *, most: int) -> dict[str, int | None]:
    """Return the points that each order of T3 needs by the variance of the pilot's folder.

    None for one to which `most` points are too few.
    """
    branches = Branches(folder)
    return {
        order.id: points_needed(*differences_of(branches, order.labels), most=most)
        for order in orders(folder, branches)
    }


def points_per_run(part: Part, results: Path, runs: Sequence[Planned]) -> int:
    """Return the branch points per run: the part's own, or what the pilot's result asks for.

    Raises:
        ValueError: the pilot has not been run.
    """
    possible = min(run.trial.config.run.steps for run in runs) - 1
    most = min(part.branching.most, possible)
    if part.branching.points is not None:
        return min(part.branching.points, possible)
    path = results / f"{PILOT}.json"
    try:
        asked = json.loads(path.read_text(encoding="utf-8"))["points"]
        needed = [math.inf if each is None else each for each in asked["needed"].values()]
        return most if max(needed) > most * len(runs) else math.ceil(max(needed) / len(runs))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{part.name} takes its number of points from its pilot, and {path} does not say it "
            f"({type(error).__name__}: {error}). Run the pilot first: python jobs/results.py {PILOT}"
        ) from error


def branch_command(sweep: str, folder: Path) -> str:
    """Return the command that makes the first run's branches of a pooled folder once more."""
    rows = read_lines(folder / BRANCHES)[0]
    steps = sorted({row["step"] for row in rows if row["run"] == rows[0]["run"]})
    return (
        f"python jobs/branch.py run=again sweep={sweep} contexts={CONTEXTS} orders={ORDERS} "
        f"steps={','.join(map(str, steps))}"
    )


def branch_numbers(folder: Path) -> dict[str, Any]:
    """Return what the page says of the pooled branches: per setting, and per order and run."""
    branches = Branches(folder)
    told = []
    for order in orders(folder, branches):
        ends, steps = differences_of(branches, order.labels)
        by_run = branches.differences_by_run(order.labels[0], "entropy", order.labels[-1])
        told.append(
            {
                "id": order.id,
                "labels": list(order.labels),
                "ends": vars(ends),
                "neighbours": [vars(step) for step in steps],
                "by_run": mean([fmean(values) for values in by_run.values()]),
            }
        )
    entropies = {label: vars(branches.mean(label, "entropy")) for label in branches.settings}
    against = {
        label: {"mean": found.value, "error": found.error, "count": found.count}
        for label in branches.settings[1:]
        for found in [branches.mean_difference(label, "entropy")]
    }
    return {
        "points": branches.num_points,
        "entropy": entropies,
        "against": against,
        "orders": told,
    }
