"""Parts from their runs to their numbers: planned, costed, trained, branched, judged."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from isentropic.durable import write_text_durably
from isentropic.experiments.branch.arms import preset_settings
from isentropic.experiments.program import DONE, RESUMABLE
from isentropic.experiments.results.archive import (
    archive,
    archive_branches,
    is_kept,
    kept_points,
    restore,
    restore_branches,
)
from isentropic.experiments.results.conclude import conclude
from isentropic.experiments.results.cost import cost_of, machine
from isentropic.experiments.results.numbers import rounded
from isentropic.experiments.results.parts import Part
from isentropic.experiments.results.plan import Planned, moved, over, planned_runs, to_do
from isentropic.experiments.results.t3 import PILOT, make_branches, points_per_run
from isentropic.experiments.results.train import train_runs
from isentropic.experiments.run.lock import run_lock
from isentropic.experiments.sweep.ledger import LEDGER, OVER, SweepLedger
from isentropic.metrics.report.reading import read_json

TOTALS = "totals.json"
# Under the folder of the runs: parts whose numbers are taken from files, each by itself.
KEPT = "kept"
OF_A_RUN = ("config.yaml", "metrics.jsonl", "rollouts")  # what its numbers are made of
Plan = tuple[Part, list[Planned]]


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things are."""

    runs: Path  # the run folders and their ledger
    results: Path  # where the numbers go
    kept: Path | None = None  # where runs, and the pilot's numbers, are kept; None: in `results`

    @property
    def source(self) -> Path:
        return self.kept or self.results

    def of_pilot(self) -> Path:
        """Return the folder of the pilot's numbers: those made last."""
        here = (self.results / f"{PILOT}.json").is_file()
        return self.results if here else self.source


def planned_parts(parts: Sequence[Part], places: Places) -> Iterator[Plan]:
    """Compose the runs of one part after the other. Raises ValueError for one that cannot start."""
    return ((part, planned_runs(part, places.runs)) for part in parts)


def states(plans: Iterable[Plan], places: Places, parallel: int | None) -> Iterator[str]:
    """Yield a line per part: done, kept or to do, its runs, and about how long; then the sum.

    kept: not trained here, but `recorded` makes it, of the runs of the machine that trained it.
    A part's line comes as soon as its runs are composed, which takes a third of a second each.
    Raises ValueError: a kept file is damaged.
    """
    # Only looked at: no folder is made.
    ledger = SweepLedger(places.runs) if places.runs.is_dir() else None
    every, kept = {}, False
    for part, runs in plans:
        every |= {run.trial.digest: run for run in runs}
        written = (places.results / f"{part.name}.json").is_file()
        cost = cost_of(runs, ledger, parallel or 1)
        unmade = "kept" if _is_kept(part, runs, places) else "to do"
        state = "done" if written and not cost.left else unmade
        kept |= state == "kept"
        branches = ", and branches" if part.branching else ""
        yield f"{part.name:<13}{state:<7}{cost}{branches}"
    left = to_do(every.values(), ledger)
    yield (
        f"together     {len(every)} runs, each trained once whatever parts share it; {len(left)} "
        f"to do on {machine()}"
    )
    if kept:
        yield "kept         recorded=true makes these parts from docs/results/steps and trains nothing"


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

    recorded: parts whose runs, and branches, are all kept beside their numbers are made from these.
    """
    plans = list(planned_parts(parts, places))
    _check_pilot(plans, places)
    kept = [part for part, runs in plans if recorded and _is_kept(part, runs, places)]
    to_train = [(part, runs) for part, runs in plans if part not in kept]
    _check_models(to_train)
    with run_lock(places.runs):
        ledger = SweepLedger(places.runs)
        _check_folders(to_train, places, ledger)
        if to_train:
            for line in states(to_train, places, parallel):
                say(line)
        if recorded and to_train:
            names = ", ".join(part.name for part, _ in to_train)
            say(f"not all runs of these are kept, so all are trained, on one machine: {names}")
        codes = [DONE]
        for part, runs in plans:
            if part in kept:
                _take(part, runs, places, say)
                continue
            say(f"{part.name}: {cost_of(runs, ledger, parallel or 1)}")
            codes.append(train_runs(runs, places.runs, ledger, parallel=parallel, say=say))
            archive(part.name, runs, ledger, places.results)
            if codes[-1] == RESUMABLE:
                say("stopped; the same command goes on")
                return RESUMABLE
            folder = _branch(part, runs, ledger, places, processes, say)
            _conclude(part, runs, ledger, places, folder, say)
            write_totals(ledger, places.results)
    return max(codes)


def write_totals(ledger: SweepLedger, results: Path) -> None:
    """Write how many runs this ledger has, and their hours, starts of engines included.

    Those of other ledgers, of another machine or of folders that are gone, stay beside them.
    """
    done = [digest for digest, row in ledger.rows.items() if row["state"] in OVER]
    hours = sum(sum(ledger.attempts(digest)) for digest in done) / 3600
    totals = read_json(results / TOTALS) or {}
    totals[ledger.began] = rounded({"runs": len(done), "hours": hours})
    write_text_durably(results / TOTALS, json.dumps(totals, indent=1) + "\n")


def _check_pilot(plans: Sequence[Plan], places: Places) -> None:
    """Refuse branches without their pilot before anything starts, not after hours."""
    names = [part.name for part, _ in plans]
    for part, runs in plans:
        if part.branching and part.branching.points is None and PILOT not in names:
            points_per_run(part, places.of_pilot(), runs)


def _check_models(plans: Sequence[Plan]) -> None:
    """Refuse a model that is not there before anything starts, not after the parts before it."""
    from isentropic.models.source import check_model  # torch: after everything else was checked

    configs = [run.trial.config for _, runs in plans for run in runs]
    for config in {repr((one.model, one.task)): one for one in configs}.values():
        check_model(config.model, config.task)


def _check_folders(plans: Sequence[Plan], places: Places, ledger: SweepLedger) -> None:
    """Refuse runs that are over and whose files are gone: they would have the numbers of nothing."""
    for run in (run for _, runs in plans for run in over(runs, ledger)):
        lost = [name for name in OF_A_RUN if not (run.folder / name).exists()]
        if lost:
            raise ValueError(
                f"{run.folder} has no {', '.join(lost)}, and by {places.runs / LEDGER} the run is over. "
                "Restore the folder; or make the part from its runs as they are kept: recorded=true; "
                "or move that file away: all runs are then trained again."
            )


def _is_kept(part: Part, runs: Sequence[Planned], places: Places) -> bool:
    """Return True if the part can be made from files: all its runs, and the branches that it asks for."""
    if not is_kept(part.name, runs, places.source):
        return False
    if not part.branching:
        return True
    named = preset_settings(part.branching.sweep)
    points = kept_points(part.name, runs, named, places.source)
    return points is not None and points == points_per_run(part, places.of_pilot(), runs)


def _take(
    part: Part, planned: Sequence[Planned], places: Places, say: Callable[[str], None]
) -> None:
    """Make a part from its files, in a folder of its own: none of its runs is another part's."""
    folder = places.runs / KEPT / part.name
    shutil.rmtree(folder, ignore_errors=True)
    runs, ledger = moved(planned, folder), SweepLedger(folder)
    restore(part.name, runs, ledger, places.source)
    branches = None
    if part.branching:
        branches = restore_branches(part.name, places.source, folder / "branches")
    say(f"{part.name}: its {len(runs)} runs are taken from {places.source}; they are not trained")
    _conclude(part, runs, ledger, places, branches, say)


def _branch(
    part: Part,
    runs: Sequence[Planned],
    ledger: SweepLedger,
    places: Places,
    processes: int | None,
    say: Callable[[str], None],
) -> Path | None:
    """Make the part's branches; return the folder that pools them, None if it has none."""
    done = over(runs, ledger)
    if not part.branching or not done:
        return None
    folder = places.runs / "branches" / part.name
    points = points_per_run(part, places.of_pilot(), runs)
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
