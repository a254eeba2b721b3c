"""Trains the same updates from states of a recorded run under several settings, and compares.

python jobs/branch.py run=<folder or name> steps=10,20,30 'objective.beta1=0,0.5,1'

What is no option is an override of what comes after the rollouts. Several values span a grid, whose
first setting is the base of the differences.
"""

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from isentropic.checks import check_range
from isentropic.experiments.branch.arms import preset_settings, settings_of_run
from isentropic.experiments.branch.places import evenly, room_for_processes
from isentropic.experiments.program import program
from isentropic.experiments.run.in_thread import run_anywhere
from isentropic.experiments.run.recorded import RecordedRun, recorded_run
from isentropic.experiments.settings.options import Option, Options, count, flag, path, text
from isentropic.experiments.settings.overrides import named_settings

POINTS = 40
BRANCHES = 18  # per point, unless `orders` is given
OPTIONS = Options(
    "branch",
    __doc__,
    (
        Option(
            "run", "<folder or name>", "a run folder, or a name under runs/", text, required=True
        ),
        Option(
            "steps",
            "a,b,c|first:last:step|every:n",
            "branch points, the state after each step (default: 40, evenly spread; not the start, "
            "where AdamW knows nothing yet and its first update is far too large to compare by)",
            text,
        ),
        Option(
            "out",
            "<folder>",
            "where to write (default: <run>/branches/<settings>)",
            path,
            writes=True,
        ),
        Option("sweep", "<name>", "settings by name from conf/sweep, such as ce_gppo_t3", text),
        Option(
            "exact",
            "true|false",
            "true: as many learner ranks as the run had, over Ray; false: one rank in this process "
            "(default)",
            flag,
        ),
        Option(
            "contexts",
            "<count>",
            "rollouts to measure on, of the step trained on and of each of two others (default: "
            "256)",
            count,
        ),
        Option(
            "processes",
            "<count>",
            "points made at once, each in a process of its own (default: what the CPUs hold; one "
            "with exact=true or a GPU)",
            count,
        ),
        Option(
            "orders",
            "<count>",
            "ways to put a step's prompts into its updates, whose mean a point is (default: about "
            "18 branches per point)",
            count,
        ),
    ),
    words="run",
    takes_overrides=True,
)


def branch_points(text: str | None, run: RecordedRun) -> list[int]:
    """Return the steps that `steps=` means.

    Raises:
        ValueError: it cannot be read, or names a step whose next one the ledger lacks.
    """
    possible = [step - 1 for step in run.steps]
    if text is None:
        warm = [step for step in possible if step > 0] or possible
        return evenly(warm, POINTS)
    if match := re.fullmatch(r"every:([0-9]{1,9})", text):
        check_range("steps=every", int(match[1]), at_least=1)
        return [step for step in possible if step % int(match[1]) == 0]
    if match := re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})(?::([0-9]{1,9}))?", text):
        first, last, stride = int(match[1]), int(match[2]), int(match[3] or 1)
        check_range("steps=first:last:step, step", stride, at_least=1)
        points = list(range(first, last + 1, stride))
    elif re.fullmatch(r"\[?[0-9]{1,9}(,[0-9]{1,9})*\]?", text.replace(" ", "")):
        points = [int(part) for part in text.strip("[]").split(",")]
    else:
        raise ValueError(
            f"steps={text!r} cannot be read. Write 10,20,30, or first:last:step, or every:5."
        )
    absent = [point for point in points if point not in possible]
    if absent or not points:
        raise ValueError(
            f"steps={text}: no branch can start after step "
            f"{', '.join(map(str, absent)) or 'none'}, because the ledger of {run.folder} has no "
            f"step after it. Choose from {possible[0]} to {possible[-1]}."
        )
    return sorted(set(points))


def branch(options: dict[str, Any], overrides: list[str]) -> None:
    """Make the branches, then the statements and the report about them."""
    named = named_settings(overrides) if overrides else {}
    if "sweep" in options:
        named = preset_settings(options["sweep"]) | named
    make_branches(options, named)


def make_branches(options: Mapping[str, Any], named: Mapping[str, tuple[str, ...]]) -> Path:
    """Make the branches of settings by name, and what is written about them; return their folder."""
    if len(named) < 2:
        raise ValueError(
            "a comparison needs two settings: give a key several values, "
            "'objective.beta1=0,0.5,1', or settings by name, sweep=ce_gppo_t3."
        )
    run = recorded_run(options["run"])
    settings = settings_of_run(run.values, named)
    points = branch_points(options.get("steps"), run)
    digest = hashlib.blake2b(repr(named).encode(), digest_size=4).hexdigest()
    out: Path = options.get("out") or run.folder / "branches" / digest
    exact = options.get("exact", False)
    processes = options.get("processes") or (1 if exact else room_for_processes(run.config))
    if exact and processes > 1:
        raise ValueError(
            f"processes={processes} with exact=true: the ranks are shared by all points. Leave one "
            "out."
        )
    orders = options.get("orders") or max(1, BRANCHES // len(named))
    _say(
        f"{len(points)} branch points, {len(settings)} settings, {orders} orders; base: "
        f"{settings[0].label}\n{out}"
    )

    # torch: after everything was checked
    from isentropic.experiments.branch.branch import branch as branch_all
    from isentropic.experiments.branch.point import Comparison
    from isentropic.experiments.run.prepare import prepare
    from isentropic.experiments.statements.branches import branch_statements, write_statements
    from isentropic.metrics.report import write_report

    prepared = prepare(run.config)
    run.say_changed_data(prepared.data)
    comparison = Comparison(
        run=replace(run, vocab_size=prepared.chat.vocab_size),
        settings=tuple(settings),
        exact=exact,
        contexts=options.get("contexts", 256),
        orders=orders,
    )
    run_anywhere(branch_all(comparison, prepared, points, out, processes=processes, say=_say))
    for row in write_statements(out, branch_statements(out)):
        print(f"{row['id']:<9} {row['verdict']:<10} {row['number']}")
    print(write_report([out], out / "report.html"))
    return out


def _say(text: str) -> None:
    print(text, flush=True)


_main = program(branch, OPTIONS, go_on="the same command goes on where it was")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program. `branch.py replay ...` was an earlier form of `replay.py ...`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] != ["replay"]:
        return _main(given)
    print("branch.py replay is now replay.py", file=sys.stderr)
    from isentropic.experiments.commands.replay import main as replay_main

    return replay_main(given[1:])
