"""python jobs/branch.py run=<folder|name> steps=10,20,30 'objective.beta1=0,0.5,1'

run=       a run folder, or a name under runs/
steps=     branch points, the state after each: a,b,c | first:last:step | every:n   (default: 40, evenly spread; not the
           start, where AdamW knows nothing yet and its first update is far too large to compare by)
out=       the folder to write (default: <run>/branches/<settings>)
sweep=     settings by name from conf/sweep, such as ce_gppo_t3
exact=     true: as many learner ranks as the run had, over Ray; false (default): one rank in this process
contexts=  rollouts to measure on, of the step trained on and of each of two others (default 256)
processes= points made at once, each in a process of its own (default: what the CPUs hold; one with exact or a GPU)
orders=    ways to put a step's prompts into its updates, whose mean a point is (default: about 18 branches a point)

All else are Hydra overrides of what comes after the rollouts; several values span a grid, its first setting is the
base of the differences. `replay run=... step=17 [overrides]` trains one recorded step again and compares.
"""

import asyncio
import hashlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isentropic.checks import check_choice, check_range
from isentropic.config import Config
from isentropic.experiments.branch.arms import named_settings, read_preset, settings_of_run
from isentropic.experiments.hydra_main import BAD_INPUT, INTERRUPTED, RESUMABLE, is_ours, refuse
from isentropic.experiments.run.recorded import RecordedRun, recorded_run
from isentropic.folders import use_durable_folders

OPTIONS = ("run", "steps", "step", "out", "sweep", "exact", "contexts", "orders", "processes")
POINTS = 40
BRANCHES = 18  # a point, unless told otherwise
PROCESSES = 8  # unless told otherwise: each has the model and what a step needs of it


def main(arguments: Sequence[str] | None = None) -> None:
    """The program; exits with 2 on bad input, 75 or 130 where it was stopped: the same command goes on."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(__doc__)
        sys.exit(0 if given else BAD_INPUT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(RESUMABLE))  # and not without its processes
    use_durable_folders()
    try:
        if given[0] == "replay":
            from isentropic.experiments.commands.replay import replay

            sys.exit(replay(*split(given[1:])))
        sys.exit(_branch(*split(given)))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except ValueError as error:
        if not is_ours(error):
            raise
        sys.exit(refuse(str(error)))


def split(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Our own options, and the overrides. Raises ValueError for what is neither."""
    options, overrides = {}, []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        key = key.removeprefix("branch.")
        if not separator:
            raise ValueError(
                f"{argument!r} is no option and no override. Write key=value; --help shows the options."
            )
        if key in OPTIONS:
            options[key] = value
        elif "." not in key and "/" not in key and not _is_config_key(key):
            check_choice("option", key, OPTIONS)
        else:
            overrides.append(argument)
    if "run" not in options:
        raise ValueError("which run? Give run=<folder or name>; --help shows all options.")
    return options, overrides


def branch_points(text: str | None, run: RecordedRun) -> list[int]:
    """The steps meant by `steps=`.

    Raises:
        ValueError: it cannot be read, or names a step whose next one the ledger lacks.
    """
    possible = [step - 1 for step in run.steps]
    if text is None:
        warm = [step for step in possible if step > 0] or possible
        return sorted(
            {warm[int(i)] for i in np.linspace(0, len(warm) - 1, min(POINTS, len(warm))).round()}
        )
    if match := re.fullmatch(r"every:(\d+)", text):
        check_range("steps=every", int(match[1]), at_least=1)
        return [step for step in possible if step % int(match[1]) == 0]
    if match := re.fullmatch(r"(\d+):(\d+)(?::(\d+))?", text):
        first, last, stride = int(match[1]), int(match[2]), int(match[3] or 1)
        check_range("steps=first:last:step, step", stride, at_least=1)
        points = list(range(first, last + 1, stride))
    elif re.fullmatch(r"\[?\d+(,\d+)*\]?", text.replace(" ", "")):
        points = [int(part) for part in text.strip("[]").split(",")]
    else:
        raise ValueError(
            f"steps={text!r} cannot be read. Write 10,20,30, or first:last:step, or every:5."
        )
    absent = [point for point in points if point not in possible]
    if absent or not points:
        raise ValueError(
            f"steps={text}: no branch can start after step {', '.join(map(str, absent)) or 'none'}, because the ledger "
            f"of {run.folder} has not the step that follows. Choose from {possible[0]} to {possible[-1]}."
        )
    return sorted(set(points))


def _branch(options: dict[str, str], overrides: list[str]) -> int:
    named = named_settings(overrides) if overrides else {}
    if "sweep" in options:
        named = preset_settings(options["sweep"]) | named
    if len(named) < 2:
        raise ValueError(
            "a comparison needs two settings: give a key several values, 'objective.beta1=0,0.5,1', or settings "
            "by name, sweep=ce_gppo_t3."
        )
    contexts = _count(options, "contexts", 256)
    orders = _count(options, "orders", max(1, BRANCHES // len(named)))
    check_choice("exact", options.get("exact", "false"), ("true", "false"))
    run = recorded_run(options["run"])
    settings = settings_of_run(run.values, named)
    points = branch_points(options.get("steps"), run)
    digest = hashlib.blake2b(repr(named).encode(), digest_size=4).hexdigest()
    out = Path(options["out"]) if "out" in options else run.folder / "branches" / digest

    from isentropic.experiments.branch.branch import branch  # torch: after everything was checked
    from isentropic.experiments.branch.point import Comparison
    from isentropic.experiments.run.prepare import prepare
    from isentropic.experiments.statements.branches import branch_statements, write_statements
    from isentropic.metrics.report import write_report

    exact = options.get("exact") == "true"
    processes = _count(options, "processes", 1 if exact else room_for_processes(run.config))
    if exact and processes > 1:
        raise ValueError(
            f"processes={processes} with exact=true: the ranks are shared by all points. Leave one out."
        )
    _say(
        f"{len(points)} branch points, {len(settings)} settings, {orders} orders; base: {settings[0].label}\n{out}"
    )
    about = Comparison(
        run=run, settings=tuple(settings), exact=exact, contexts=contexts, orders=orders
    )
    asyncio.run(branch(about, prepare(run.config), points, out, processes=processes, say=_say))
    for row in write_statements(out, branch_statements(out)):
        print(f"{row['id']:<9} {row['verdict']:<10} {row['number']}")
    print(write_report([out], out / "report.html"))
    return 0


def room_for_processes(config: Config) -> int:
    """Learners of one rank that the CPUs hold at once; one where the learner is on a GPU."""
    if config.cluster.gpus_per_rank:
        return 1
    return max(
        1,
        min(PROCESSES, int(len(os.sched_getaffinity(0)) // max(1.0, config.cluster.cpus_per_rank))),
    )


def preset_settings(name: str) -> dict[str, tuple[str, ...]]:
    """The `settings` of conf/sweep/<name>.yaml: label -> overrides."""
    preset = read_preset(name)
    settings = preset.get("settings")
    if not isinstance(settings, dict) or not settings:
        raise ValueError(
            f"sweep={name} has no settings by name; a grid is given on the command line."
        )
    return {str(label): tuple(map(str, own)) for label, own in settings.items()}


def _count(options: dict[str, str], name: str, default: int) -> int:
    text = options.get(name, str(default))
    count = int(text) if text.isdigit() else text
    check_range(name, count, at_least=1)
    return count


def _is_config_key(key: str) -> bool:
    from isentropic.experiments.branch.arms import CHANGEABLE

    return key.strip("+~") in CHANGEABLE


def _say(text: str) -> None:
    print(text, flush=True)
