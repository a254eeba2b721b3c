"""Parts from their runs to their numbers: planned, costed, trained, branched, judged."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from isentropic.durable import write_text_durably
from isentropic.experiments.branch.arms import preset_settings
from isentropic.experiments.program import DONE, RESUMABLE
from isentropic.experiments.results.archive import (
    archive,
    archive_branches,
    is_restored,
    kept_points,
    restore,
    restore_branches,
)
from isentropic.experiments.results.conclude import conclude
from isentropic.experiments.results.cost import cost_of, machine
from isentropic.experiments.results.numbers import rounded
from isentropic.experiments.results.parts import Part
from isentropic.experiments.results.plan import Planned, over, planned_runs, to_do
from isentropic.experiments.results.t3 import PILOT, make_branches, points_per_run
from isentropic.experiments.results.train import train_runs
from isentropic.experiments.run.lock import run_lock
from isentropic.experiments.sweep.ledger import OVER, SweepLedger

TOTALS = "totals.json"
Plans = Sequence[tuple[Part, list[Planned]]]


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things are: `runs` has the run folders and their ledger, `results` the numbers."""

    runs: Path
    results: Path


def planned_parts(parts: Sequence[Part], places: Places) -> Plans:
    """Compose the runs of all parts. Raises ValueError for the first that could not start."""
    return [(part, planned_runs(part, places.runs)) for part in parts]


def states(plans: Plans, places: Places, parallel: int | None) -> list[str]:
    """Return a line per part: done or to do, its runs, and about how long."""
    # Only looked at: no folder is made.
    ledger = SweepLedger(places.runs) if places.runs.is_dir() else None
    lines = []
    for part, runs in plans:
        written = (places.results / f"{part.name}.json").is_file()
        cost = cost_of(runs, ledger, parallel or 1)
        state = "done" if written and not cost.left else "to do"
        branches = ", and branches" if part.branching else ""
        lines.append(f"{part.name:<13}{state:<7}{cost}{branches}")
    every = {run.trial.digest: run for _, runs in plans for run in runs}
    left = to_do(every.values(), ledger)
    lines.append(
        f"together     {len(every)} runs, each trained once whatever parts share it; {len(left)} "
        f"to do on {machine()}"
    )
    return lines


def make_results(
    parts: Sequence[Part],
    places: Places,
    *,
    parallel: int | None = None,
    processes: int | None = None,
    recorded: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Make the parts one after the other; return the exit code: 0 done, 1 a run failed, 75 stopped.

    What is over is not trained again. A part of which a run failed is still concluded from the
    others, and says so.

    recorded: runs whose numbers are kept beside those of the parts are not trained, but for those
        that branches start from, which need checkpoints, unless the branches are kept too.
    """
    plans = planned_parts(parts, places)
    _check_pilot(plans, places)
    _check_models(plans)
    with run_lock(places.runs):
        ledger = SweepLedger(places.runs)
        if recorded:
            restore(_kept_runs(plans, places), ledger, places.results, say)
        for line in states(plans, places, parallel):
            say(line)
        codes = [DONE]
        for part, runs in plans:
            say(f"{part.name}: {cost_of(runs, ledger, parallel or 1)}")
            codes.append(train_runs(runs, places.runs, ledger, parallel=parallel, say=say))
            archive(runs, ledger, places.results)
            if codes[-1] == RESUMABLE:
                say("stopped; the same command goes on")
                return RESUMABLE
            folder = _branch(part, runs, ledger, places, processes, say)
            _conclude(part, runs, ledger, places, folder, say)
            write_totals(ledger, places.results)
    return max(codes)


def write_totals(ledger: SweepLedger, results: Path) -> None:
    """Write how many runs there are in all, and their hours, starts of engines included."""
    done = [digest for digest, row in ledger.rows.items() if row["state"] in OVER]
    hours = sum(sum(ledger.attempts(digest)) for digest in done) / 3600
    totals = rounded({"runs": len(done), "hours": hours})
    write_text_durably(results / TOTALS, json.dumps(totals) + "\n")


def _check_pilot(plans: Plans, places: Places) -> None:
    """Refuse branches without their pilot before anything starts, not after hours."""
    names = [part.name for part, _ in plans]
    for part, runs in plans:
        if part.branching and part.branching.points is None and PILOT not in names:
            points_per_run(part, places.results, runs)


def _check_models(plans: Plans) -> None:
    """Refuse a model that is not there before anything starts, not after the parts before it."""
    from isentropic.models.source import check_model  # torch: after everything else was checked

    configs = [run.trial.config for _, runs in plans for run in runs]
    for config in {repr((one.model, one.task)): one for one in configs}.values():
        check_model(config.model, config.task)


def _kept_runs(plans: Plans, places: Places) -> list[Planned]:
    """Return the runs that nothing but their numbers is asked of: branches need checkpoints."""
    needed = {
        run.trial.digest
        for part, runs in plans
        if part.branching and not _has_branches(part, runs, places)
        for run in runs
    }
    return [run for _, runs in plans for run in runs if run.trial.digest not in needed]


def _has_branches(part: Part, runs: Sequence[Planned], places: Places) -> bool:
    """Return True if the branches are kept that would be made."""
    labels = preset_settings(part.branching.sweep)
    kept = kept_points(part.name, runs, labels, places.results)
    return kept is not None and kept == points_per_run(part, places.results, runs)


def _branch(
    part: Part,
    runs: Sequence[Planned],
    ledger: SweepLedger,
    places: Places,
    processes: int | None,
    say: Callable[[str], None],
) -> Path | None:
    """Make the part's branches; return the folder that pools them, None if it has none.

    Raises:
        ValueError: only the numbers of a run are there, and the branches are not kept.
    """
    done = over(runs, ledger)
    if not part.branching or not done:
        return None
    folder = places.runs / "branches" / part.name
    if any(map(is_restored, done)):
        if not _has_branches(part, runs, places):
            raise ValueError(
                f"{part.name} branches runs of which only the numbers are there, taken from "
                f"{places.results}, and its branches are not kept there. Remove {places.runs} to "
                "have all runs trained that are asked for without recorded=true."
            )
        say(f"the branches of {part.name} are taken from {places.results}; they are not made")
        return restore_branches(part.name, places.results, folder)
    points = points_per_run(part, places.results, runs)
    make_branches(part, done, points, folder, processes=processes, say=say)
    if len(done) == len(runs):
        archive_branches(part.name, folder, places.results)
    return folder


def _conclude(
    part: Part,
    runs: Sequence[Planned],
    ledger: SweepLedger,
    places: Places,
    branches: Path | None,
    say: Callable[[str], None],
) -> None:
    done = over(runs, ledger)
    if not done:
        say(f"{part.name}: no run came to its end; nothing is written")
        return
    found = conclude(part, runs, ledger, places.results, branches)
    for row in found["statements"]:
        say(f"{row['id']:<12} {row['verdict']:<10} {row['number']}")
    say(f"{part.name}: {places.results / part.name}.json, {len(done)} of {len(runs)} runs")
