"""python jobs/sweep.py experiment=ce_gppo_tiny 'objective.beta1=0,0.25,0.5' 'objective.beta2=0.5,1' 'seed=0,1,2'

sweep=       a preset of conf/sweep, or a YAML file: overrides, grid, settings or list, random
name=        the sweep's folder, runs/<name> (default: the preset's name, or sweep-<hash>)
parallel=    runs at once (default: what the resources hold)
early_stop=  true: the alarms of collapse and explosion end a run (default false: they are reported alone)
--resume     go on with the sweep of that name: finished runs are not repeated, unfinished ones continue
--yes        for a sweep of more than 200 runs
--dry        compose and check all runs, start none

All else are Hydra overrides; several values span the grid.
"""

import asyncio
import difflib
import hashlib
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from isentropic.checks import check_choice, check_range
from isentropic.config import RUN_NAME
from isentropic.experiments.branch.arms import read_preset
from isentropic.experiments.hydra_main import BAD_INPUT, RESUMABLE, is_ours, refuse
from isentropic.experiments.run.lock import run_lock
from isentropic.experiments.sweep.ledger import OVER, PLAN, SweepLedger, read_plan, write_plan
from isentropic.experiments.sweep.plan import Trial, compose_trials, plan_of
from isentropic.folders import runs_folder, use_durable_folders

OPTIONS = ("sweep", "name", "parallel", "early_stop")
FLAGS = ("--resume", "--yes", "--dry")
MANY = 200


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command line, taken apart."""

    options: dict[str, str] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()
    overrides: tuple[str, ...] = ()

    @property
    def lasting(self) -> list[str]:
        """What says which runs the sweep has: kept in its folder."""
        return [
            *(
                f"{key}={self.options[key]}"
                for key in ("sweep", "early_stop")
                if key in self.options
            ),
            *self.overrides,
        ]


def main(arguments: Sequence[str] | None = None) -> None:
    """The program; exits with 0 done, 1 a run failed, 2 bad input, 75 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or set(given) & {"-h", "--help"}:
        print(__doc__)
        sys.exit(0 if given else BAD_INPUT)
    use_durable_folders()
    try:
        sys.exit(sweep(take_apart(given)))
    except ValueError as error:
        if not is_ours(error):
            raise
        sys.exit(refuse(str(error)))


def take_apart(arguments: Sequence[str]) -> Asked:
    options, flags, overrides = {}, set(), []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if argument.startswith("--"):
            check_choice("option", argument, FLAGS)
            flags.add(argument)
        elif separator and (key in OPTIONS or difflib.get_close_matches(key, OPTIONS, cutoff=0.8)):
            check_choice("option", key, OPTIONS)
            options[key] = value
        else:
            overrides.append(argument)
    check_choice("early_stop", options.get("early_stop", "false"), ("true", "false"))
    return Asked(options=options, flags=frozenset(flags), overrides=tuple(overrides))


def sweep(asked: Asked, root: Path | None = None) -> int:
    """Checks everything, runs, reports; the exit code."""
    folder = (root or runs_folder()) / _name(asked)
    asked, trials = _trials(asked, folder)
    if "--dry" in asked.flags:
        print("\n".join(f"{trial.name}  {' '.join(trial.overrides)}" for trial in trials))
        print(f"{len(trials)} runs; nothing was started")
        return 0
    parallel = asked.options.get("parallel")
    if parallel is not None:
        check_range("parallel", int(parallel) if parallel.isdigit() else 0, at_least=1)

    from isentropic.actors.ray_runtime import (
        check_address,
    )  # Ray and torch: after everything was checked
    from isentropic.experiments.sweep.queue import Sweep, ordered
    from isentropic.experiments.sweep.table import SweepTable

    check_address(trials[0].config.cluster)
    os.environ.setdefault("WANDB_SILENT", "true")
    with run_lock(folder):
        write_plan(folder, asked.lasting)
        with SweepTable(
            folder.name, [(trial.name, trial.config.run.steps) for trial in trials]
        ) as table:
            ledger = SweepLedger(folder)
            job = Sweep(folder, ordered(trials), ledger, table)
            code = asyncio.run(job.run(int(parallel) if parallel else None))
    _conclude(folder, ledger)
    if code == RESUMABLE:
        print(f"stopped; go on with: python jobs/sweep.py name={folder.name} --resume")
    return code


def _name(asked: Asked) -> str:
    preset = Path(asked.options.get("sweep", "")).stem
    digest = hashlib.blake2b("\n".join(asked.lasting).encode(), digest_size=4).hexdigest()
    name = asked.options.get("name") or preset or f"sweep-{digest}"
    if not RUN_NAME.fullmatch(name):
        raise ValueError(
            f"name must be letters, digits, '.', '_' or '-', 64 at most; got {name!r}: it names a folder."
        )
    return name


def _trials(asked: Asked, folder: Path) -> tuple[Asked, list[Trial]]:
    """The runs asked for; with --resume alone, those that the folder was started with.

    Raises:
        ValueError: what could not be started; a folder that has a sweep already, or none to resume.
    """
    before = read_plan(folder)
    if "--resume" in asked.flags:
        if before is None:
            known = (
                ", ".join(sorted(path.parent.name for path in folder.parent.glob(f"*/{PLAN}")))
                or "none"
            )
            raise ValueError(
                f"{folder} has no sweep to resume. Leave out --resume, or give its name: name=... Sweeps here: {known}."
            )
        own = take_apart(before)
        if asked.lasting not in ([], [f"sweep={folder.name}"], before):
            raise ValueError(
                f"{folder} was started with other arguments: {shlex.join(before)}. To go on with it: "
                f"name={folder.name} --resume, and none of them. To start another: name=<another>."
            )
        asked = Asked(
            options=own.options | asked.options, flags=asked.flags, overrides=own.overrides
        )
    elif before is not None and "--dry" not in asked.flags:
        raise ValueError(
            f"{folder} already has a sweep. To go on with it: --resume. To start another: name=<another>."
        )
    elif before is None and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(
            f"{folder} has files that are not a sweep's. Choose another name: name=<another>."
        )
    preset = read_preset(asked.options["sweep"]) if "sweep" in asked.options else {}
    plan = plan_of(preset, asked.overrides)
    if plan.count > MANY and "--yes" not in asked.flags:
        raise ValueError(f"the sweep has {plan.count} runs. If that is meant, say --yes.")
    return asked, compose_trials(plan, folder, early_stop=asked.options.get("early_stop") == "true")


def _conclude(folder: Path, ledger: SweepLedger) -> None:
    """Statements, report and cost over the runs that have lines; a report that fails does not fail the sweep."""
    from isentropic.experiments.statements.branches import write_statements
    from isentropic.experiments.statements.runs import run_statements
    from isentropic.metrics.report import write_report

    if not (runs := [path.parent for path in sorted(folder.glob("*/metrics.jsonl"))]):
        return
    try:
        for row in write_statements(folder, run_statements(runs)):
            print(f"{row['id']:<5} {row['verdict']:<10} {row['number']}")
        print(write_report([folder], folder / "report.html", ended=True))
    except Exception as error:
        print(
            f"report: not written ({type(error).__name__}: {error}); try python jobs/report.py {folder}"
        )
    used = [
        row
        for row in ledger.rows.values()
        if row["state"] in OVER and row.get("started_actors") is False
    ]
    costs = [row["overhead_s"] for row in used]
    if costs:
        mean, most = sum(costs) / len(costs), max(costs)
        print(
            f"cost of a run on actors that were there, but for its steps: {mean:.1f} s, at most {most:.1f} s"
        )
