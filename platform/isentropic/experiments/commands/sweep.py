"""Trains many runs on shared actors and writes one report.

python jobs/sweep.py experiment=ce_gppo_tiny 'objective.beta1=0,0.25,0.5' 'seed=0,1,2'

What is no option is an override of the config; several values span the grid.
"""

import asyncio
import hashlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isentropic.config import check_name
from isentropic.experiments.program import DONE, RESUMABLE, program
from isentropic.experiments.run.lock import is_only_locked, run_lock
from isentropic.experiments.settings.conf import CONFIG_DIR, own_config_dirs
from isentropic.experiments.settings.options import Option, Options, choice, count, flag, text
from isentropic.experiments.settings.overrides import read_preset, refuse_nothing
from isentropic.experiments.started import as_started
from isentropic.experiments.sweep.ledger import (
    OVER,
    PLAN,
    SweepLedger,
    check_preset,
    read_plan,
    write_plan,
)
from isentropic.experiments.sweep.plan import Composer, SweepPlan, Trial, compose_trials, plan_of
from isentropic.folders import runs_folder

MANY = 200
LASTING = ("sweep", "early_stop")  # options that say which runs a sweep has
OPTIONS = Options(
    "sweep",
    __doc__,
    (
        Option(
            "sweep",
            "<name or file>",
            "a preset of conf/sweep, or a YAML file: overrides, grid, settings or list, random, search",
            text,
        ),
        Option(
            "name",
            "<name>",
            "the sweep's folder, runs/<name> (default: the preset's name, or sweep-<hash>)",
            text,
        ),
        Option("parallel", "<count>", "runs at once (default: what the resources hold)", count),
        Option(
            "early_stop",
            "true|false",
            "true: the alarms of collapse and explosion end a run (default: false, they are only "
            "reported)",
            flag,
        ),
        Option(
            "resume",
            "auto|never",
            "auto: go on with the sweep of that name; finished runs are not repeated, unfinished "
            "ones continue (default: never)",
            choice("auto", "never"),
        ),
        Option("yes", "true|false", f"true: start a sweep of more than {MANY} runs", flag),
        Option("dry", "true|false", "true: compose and check all runs, start none", flag),
    ),
    takes_overrides=True,
    old={"--resume": "resume=auto", "--yes": "yes=true", "--dry": "dry=true"},
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The command line of a sweep."""

    options: dict[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()

    @property
    def lasting(self) -> list[str]:
        """What says which runs the sweep has: kept in its folder."""
        kept = [f"sweep={self.options['sweep']}"] if "sweep" in self.options else []
        if "early_stop" in self.options:
            kept.append(f"early_stop={str(self.options['early_stop']).lower()}")
        return [*kept, *self.overrides]

    @property
    def resumes(self) -> bool:
        return self.options.get("resume") == "auto"

    def is_set(self, name: str) -> bool:
        """Return the value of a flag."""
        return bool(self.options.get(name))


def request(options: dict[str, Any], overrides: list[str]) -> Request:
    """Return the request of a parsed command line."""
    return Request(options=options, overrides=tuple(overrides))


def sweep(request: Request, root: Path | None = None) -> int:
    """Check everything, run, report. Returns 0 done, 1 a run failed, 75 interrupted."""
    folder = (root or runs_folder()) / _name(request)
    request, preset, plan = _plan(request, folder)
    early_stop = request.is_set("early_stop")
    search = None
    if plan.search is None:
        trials = compose_trials(plan, folder, early_stop=early_stop)
    else:
        from isentropic.experiments.sweep.search import Search

        search = Search(plan.search, Composer(plan, folder, early_stop=early_stop))
        trials = search.first_batch()
    if not request.resumes:  # an older one may have had it: its runs stay what they are
        for trial in trials:
            refuse_nothing(trial.overrides, trial.cfg)
    if request.is_set("dry"):
        _print_dry(plan, trials)
        return DONE

    # Ray and torch: after everything was checked
    from isentropic.actors.ray_runtime import check_address
    from isentropic.experiments.sweep.queue import Sweep, ordered
    from isentropic.experiments.sweep.table import SweepTable

    check_address(trials[0].config.cluster)
    os.environ.setdefault("WANDB_SILENT", "true")
    with run_lock(folder):
        write_plan(folder, request.lasting, preset)
        rows = [(trial.name, trial.config.run.steps) for trial in trials]
        with SweepTable(folder.name, rows) as table:
            ledger = SweepLedger(folder)
            known = [] if search else ordered(trials)
            queue = Sweep(folder, known, ledger, table, search)
            code = asyncio.run(queue.run(request.options.get("parallel")))
    _conclude(folder, ledger)
    if search is not None:
        print(search.summary(ledger))
    if code == RESUMABLE:
        own = "".join(f" {CONFIG_DIR[0]} {shlex.quote(str(path))}" for path in own_config_dirs())
        again = f"python jobs/sweep.py{own} name={folder.name} resume=auto"
        print(as_started(f"stopped; go on with: {again}"))
    return code


def _name(request: Request) -> str:
    preset = Path(request.options.get("sweep", "")).stem
    digest = hashlib.blake2b("\n".join(request.lasting).encode(), digest_size=4).hexdigest()
    name = request.options.get("name") or preset or f"sweep-{digest}"
    check_name("name", name)
    return name


def _print_dry(plan: SweepPlan, trials: Sequence[Trial]) -> None:
    print("\n".join(f"{trial.name}  {' '.join(trial.overrides)}" for trial in trials))
    if plan.search is None:
        twice = plan.count - len(trials)
        again = (
            f" ({twice} points of its plan are runs that are in the list already)" if twice else ""
        )
        print(f"{len(trials)} runs{again}; nothing was started")
    else:
        print(
            f"the first {len(trials)} of {plan.search.count} runs; the others follow from how these "
            "end. Nothing was started"
        )


def _plan(request: Request, folder: Path) -> tuple[Request, dict[str, Any], SweepPlan]:
    """Return the request, its YAML file's content, and the plan they make.

    With resume=auto they are those which the folder was started with.

    Raises:
        ValueError: what could not be started; a folder that has a sweep already, or none to resume.
    """
    before = read_plan(folder)
    begun = is_only_locked(folder)  # killed before it said what it is
    if request.resumes and not (before is None and request.lasting and begun):
        request = _resumed(request, folder, before)
    elif before is not None and not request.is_set("dry"):
        raise ValueError(
            f"{folder} already has a sweep. To go on with it: resume=auto. To start another: "
            "name=<another>."
        )
    elif before is None and folder.is_dir() and not begun:
        raise ValueError(
            f"{folder} has files that are not a sweep's. Choose another name: name=<another>."
        )
    preset = read_preset(request.options["sweep"]) if "sweep" in request.options else {}
    if request.resumes:
        check_preset(folder, preset)
    plan = plan_of(preset, request.overrides)
    if plan.count > MANY and not request.is_set("yes"):
        raise ValueError(f"the sweep has {plan.count} runs. If that is meant, say yes=true.")
    return request, preset, plan


def _resumed(request: Request, folder: Path, before: list[str] | None) -> Request:
    """Return the request with what the sweep of the folder was started with."""
    if before is None:
        sweeps = ", ".join(sorted(path.parent.name for path in folder.parent.glob(f"*/{PLAN}")))
        raise ValueError(
            f"{folder} has no sweep to resume. Leave out resume=auto, or give its name: name=... "
            f"Sweeps here: {sweeps or 'none'}."
        )
    if request.lasting not in ([], [f"sweep={folder.name}"], before):
        raise ValueError(
            f"{folder} was started with other arguments: {shlex.join(before)}. To go on with it: "
            f"name={folder.name} resume=auto, and none of them. To start another: name=<another>."
        )
    options, overrides = OPTIONS.parse(before)
    own = {key: value for key, value in request.options.items() if key not in LASTING}
    return Request(options=options | own, overrides=tuple(overrides))


def _conclude(folder: Path, ledger: SweepLedger) -> None:
    """Print statements, report and cost; a report that fails does not fail the sweep."""
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
        again = as_started(f"python jobs/report.py {folder}")
        print(f"report: not written ({type(error).__name__}: {error}); try {again}")
    used = [
        row
        for row in ledger.rows.values()
        if row["state"] in OVER and row.get("started_actors") is False
    ]
    costs = [row["overhead_s"] for row in used]
    if costs:
        mean, most = sum(costs) / len(costs), max(costs)
        print(
            f"cost of a run on actors that were there, but for its steps: {mean:.1f} s, at most "
            f"{most:.1f} s"
        )


main = program(
    lambda options, overrides: sweep(request(options, overrides)),
    OPTIONS,
    go_on="go on with resume=auto",
)
