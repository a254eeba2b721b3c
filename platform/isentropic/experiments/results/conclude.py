"""What a part came to: docs/results/<part>.json and the report's own charts as PNGs."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from isentropic.durable import write_text_durably
from isentropic.experiments.results.numbers import (
    AVG,
    budget_of,
    drawn_by,
    mean,
    pooled_errors,
    read_settings,
    rounded,
    setting_numbers,
    trend,
)
from isentropic.experiments.results.parts import Part
from isentropic.experiments.results.plan import Planned, over, seeds_of, settings_of
from isentropic.experiments.results.refusals import refusals
from isentropic.experiments.results.t3 import branch_command, branch_numbers, points_asked
from isentropic.experiments.statements.branches import UNDECIDED, Statement, branch_statements
from isentropic.experiments.statements.runs import judge_runs
from isentropic.experiments.sweep.ledger import SweepLedger
from isentropic.metrics.report.charts.static import COLOURS, write_static
from isentropic.metrics.report.settings import Setting

LINES = len(COLOURS)  # of a figure
SHORT = 10  # digits of a commit
CEILING = 1000  # branch points: who needs more than these will not have them


def conclude(
    part: Part,
    planned: Sequence[Planned],
    ledger: SweepLedger,
    results: Path,
    branches: Path | None,
) -> dict[str, Any]:
    """Write the part's JSON and figures from its runs that are over; return what was written.

    branches: the folder of its pooled branches, if it has some.
    """
    done = over(planned, ledger)
    by_label = settings_of(planned)
    settings = read_settings({label: over(same, ledger) for label, same in by_label.items()})
    tokens = drawn_by(settings)
    rows = setting_numbers(settings, part.base, tokens)
    pooled = pooled_errors(rows)
    found = {
        "part": part.name,
        "title": part.title,
        "command": f"python jobs/results.py {part.name}",
        "sweep": part.sweep,
        "recipe": list(part.overrides),
        "seeds": seeds_of(planned),
        "runs": {"planned": len(planned), "over": len(done)},
        "machines": machines_of(settings),
        "start_avg": mean(first_scores(settings)),
        "commits": commits_of(settings),
        "hours": hours(settings),
        "base": part.base,
        "budget": budget_of(tokens),
        "pooled": pooled,
        "settings": [
            numbers | {"command": commands_of(by_label[numbers["label"]])} for numbers in rows
        ],
        "statements": [
            told(statement, part, missing=len(planned) - len(done))
            for statement in statements_of(part, settings, branches)
        ],
    }
    if part.order:
        found["trend"] = trend(rows, part.order, pooled)
    if any(part.refusals):
        found["refusals"] = refusals(*part.refusals)
    if branches is not None:
        command = branch_command(part.branching.sweep, branches)
        found["branches"] = branch_numbers(branches) | {"command": command}
        if not part.statements:
            needed = points_asked(branches, most=CEILING)
            found["points"] = {"needed": needed, "most": CEILING}
    found["figures"] = draw(part, settings, results)
    found = rounded(found)
    results.mkdir(parents=True, exist_ok=True)
    write_text_durably(
        results / f"{part.name}.json", json.dumps(found, indent=1, allow_nan=False) + "\n"
    )
    return found


def statements_of(
    part: Part, settings: Sequence[Setting], branches: Path | None
) -> list[Statement]:
    """Judge the part's own statements, and those that it judges again."""
    wanted = (*part.statements, *part.again)
    found = [] if branches is None else branch_statements(branches)
    runs = [run for setting in settings for run in setting.runs]
    found += judge_runs(runs) if wanted and runs else []
    return [each for each in found if each.id.split()[0] in wanted]


def told(statement: Statement, part: Part, *, missing: int) -> dict[str, Any]:
    """Return a statement as the page has it: decided here, or only seen again.

    missing: runs of the part that did not come to their end. Those that did may be the ones that
    the statement is true of, so nothing is decided without them.
    """
    told = vars(statement) | {"decides": statement.id.split()[0] in part.statements}
    if missing:
        number = f"{statement.number}; {missing} of the part's runs did not come to their end"
        told |= {"verdict": UNDECIDED, "number": number}
    return told


def machines_of(settings: Sequence[Setting]) -> list[str]:
    """Return the machines that the runs ran on, in words, each once."""
    runs = [run for setting in settings for run in setting.runs]
    return list(dict.fromkeys(machine_words(run.environment) for run in runs))


def first_scores(settings: Sequence[Setting]) -> list[float]:
    """Return the held-out avg@k before the first step, as far as it was scored, for each seed.

    All seeds begin with one model: they differ by what is drawn. A warm start is another model on
    another machine, of the same recipe, so this tells two machines apart.
    """
    runs = {run.setting("seed"): run for setting in settings for run in setting.runs}
    curves = [runs[seed].curve(AVG, start=True) for seed in sorted(runs)]
    return [curve[0][2] for curve in curves if curve and curve[0][1] == 0]


def commits_of(settings: Sequence[Setting]) -> list[str]:
    """Return the commits of the code that the runs began with, each once, as far as they are known.

    "changed" says that files of the checkout were not those of the commit.
    """
    runs = [run for setting in settings for run in setting.runs]
    found = [run.environment.get("git") or {} for run in runs]
    words = [
        git["commit"][:SHORT] + (", changed" if git.get("dirty") else "")
        for git in found
        if git.get("commit")
    ]
    return sorted(set(words))


def machine_words(environment: Mapping[str, Any]) -> str:
    """Return what a run's environment.json says of its machine."""
    gpus = environment.get("gpus") or ["no GPU"]
    memory = f"{environment.get('memory_gib', 'unknown')} GiB of memory"
    words = f"{environment.get('cpus', 'unknown')} CPUs, {memory}, {', '.join(map(str, gpus))}"
    # Two machines of one kind often have other kernels.
    return f"{words}, {environment.get('platform', 'system unknown')}"


def hours(settings: Sequence[Setting]) -> float:
    """Return the hours of all steps of the runs; a run that parts share counts in each."""
    return sum(sum(run.values("time/step_s")) for each in settings for run in each.runs) / 3600


def commands_of(runs: Sequence[Planned]) -> str:
    """Return the command that trains the setting's first run again; the other seeds differ in it.

    Of a key that the preset and the part both set, it has what counts: the last.
    """
    last: dict[str, str] = {}
    for override in runs[0].overrides:
        key = override.partition("=")[0]
        last.pop(key, None)
        last[key] = override
    return shlex.join(["python", "jobs/train.py", "run.name=again", *last.values()])


def draw(part: Part, settings: Sequence[Setting], results: Path) -> list[str]:
    """Draw the report's charts, at most `LINES` settings in each, the base in all of them.

    Return the files' names.
    """
    files: list[str] = []
    shown = [setting for setting in settings if setting.runs]
    groups = [shown]
    if len(shown) > LINES:
        base = [setting for setting in shown if setting.label == part.base]
        others = [setting for setting in shown if setting.label != part.base]
        count = math.ceil(len(others) / (LINES - len(base)))
        ends = [len(others) * number // count for number in range(count + 1)]
        groups = [[*base, *others[start:end]] for start, end in pairwise(ends)]
    for number, group in enumerate(groups if len(shown) > 1 else [], start=1):
        folder = results / (part.name if len(groups) == 1 else f"{part.name}-{number}")
        files += [str(path.relative_to(results)) for path in write_static(group, folder)]
    return files
