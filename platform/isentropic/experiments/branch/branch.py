"""From one state, the same updates under each setting: what a coefficient does, all else equal.

Between runs of different settings everything differs after a step: rollouts, weights, chance. Here
weights, optimizer, rollouts, order and seeds are the same, and the entropy after the step is
measured on the same contexts, so the differences are the setting's own. docs/statements.md, T3.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from isentropic.durable import write_text_durably
from isentropic.experiments.branch.arms import Arm
from isentropic.experiments.branch.point import Comparison, Rows
from isentropic.experiments.branch.workers import branch_workers
from isentropic.experiments.run.lock import run_lock
from isentropic.experiments.run.prepare import Prepared
from isentropic.metrics.report.branches import BRANCHES, SETTINGS, Point, Row
from isentropic.metrics.sinks.jsonl import plain, read_lines

RUNS = "runs.json"  # in the branch folder: name of a run in the rows -> its folder
# How the branches of an earlier version were measured unless asked otherwise: it did not keep that.
UNSAID = {"contexts": 256, "exact": False}


async def branch(
    comparison: Comparison,
    prepared: Prepared,
    points: Sequence[int],
    out: Path,
    *,
    processes: int,
    say: Callable[[str], None],
) -> None:
    """Writes a row per point and setting to out/branches.jsonl. Points that are there stay.

    Args:
        points: steps; the branches start from the state after each.
        processes: points made at once, each in its own process (1: in this one). Rows are the same.

    Raises:
        ValueError: another process writes to `out`, or it has branches that these cannot join.
    """
    made = 0

    def keep(rows: Rows) -> None:
        nonlocal made
        made += 1
        append(out, rows)
        entropies = ", ".join(f"{row['setting']}: {row['entropy']:.4f}" for row in rows)
        say(f"after step {rows[0]['step']} ({made}/{len(left)})  entropy  {entropies}")

    with run_lock(out, then="give this command again; or choose another: out=<folder>"):
        left = sorted(set(points) - begin(out, comparison))
        await branch_workers(comparison, prepared, left, processes, keep)
        _sort(out, comparison.settings)


def begin(out: Path, comparison: Comparison) -> set[int]:
    """Writes what is compared, or checks what is there; the run's points with a row per setting.

    Raises ValueError if the folder has branches of other settings, or measured otherwise, or of
    another run of this name.
    """
    described = _described(comparison)
    _check_settings(out / SETTINGS, described)
    runs = _runs(out / RUNS, comparison)
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / SETTINGS, described)
    _write_json(out / RUNS, runs)
    rows, torn = read_lines(out / BRANCHES)
    by_point: dict[Point, set[str]] = {}
    for row in rows:
        by_point.setdefault(_point(row), set()).add(row["setting"])
    whole = {point for point, labels in by_point.items() if labels == set(described)}
    kept = [row for row in rows if _point(row) in whole]
    # A killed process leaves a point half written: it is made again.
    if torn or len(kept) < len(rows):
        write_text_durably(out / BRANCHES, _text(kept))
    return {step for run, step in whole if run == comparison.run_name}


def _point(row: Row) -> Point:
    return str(row.get("run", "")), row["step"]


def _described(comparison: Comparison) -> dict[str, Any]:
    measured = {name: getattr(comparison, name) for name in ("orders", "contexts", "exact")}
    described = {
        setting.label: {"overrides": setting.overrides, "objective": _objective(setting)} | measured
        for setting in comparison.settings
    }
    return json.loads(json.dumps(plain(described), default=str))


def _check_settings(path: Path, described: Mapping[str, Any]) -> None:
    """Raises ValueError if the folder has branches of other settings, or measured otherwise."""
    recorded = _read_json(path)
    known = {
        label: UNSAID | values if isinstance(values, dict) else {}
        for label, values in recorded.items()
    }
    if not known or list(known.items()) == list(described.items()):
        return
    one, other = next(iter(known.values())), next(iter(described.values()))
    kept = next(iter(recorded.values()))
    changed = [
        f"{name} {one.get(name)}{'' if name in kept else ' (not kept, so taken)'}, now "
        f"{other[name]}"
        for name in ("orders", *UNSAID)
        if one.get(name) != other[name]
    ]
    raise ValueError(
        f"{path.parent} has branches of other settings, or measured otherwise "
        f"({'; '.join([*changed, str(path)])}). Choose another folder: out=<folder>."
    )


def _runs(path: Path, comparison: Comparison) -> dict[str, str]:
    """The folders of all runs by name. Raises ValueError if another run has the name in the rows."""
    name, folder = comparison.run_name, comparison.run.folder.resolve()
    known = _read_json(path)
    before = Path(known.get(name, folder))
    if before != folder and before.exists():  # one that is gone was moved
        raise ValueError(
            f"{path.parent} has branches of another run that is called {name}, {before}: its rows "
            f"would be mixed with those of {folder}. Choose another folder: out=<folder>."
        )
    return known | {name: str(folder)}


def _read_json(path: Path) -> dict[str, Any]:
    """An object of names; {} if there is no file. Raises ValueError if it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return dict(values.items())
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {error}). Restore it, or choose another "
            "folder: out=<folder>."
        ) from error


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_text_durably(path, json.dumps(values, indent=1) + "\n")


def append(out: Path, rows: Rows) -> None:
    """Adds the rows of a point to the file."""
    with (out / BRANCHES).open("a", encoding="utf-8") as file:
        file.write(_text(rows))


def _sort(out: Path, settings: Sequence[Arm]) -> None:
    """Sorts rows by run and point, then in the order of the settings, whichever was first."""
    order = {setting.label: number for number, setting in enumerate(settings)}
    rows = sorted(
        read_lines(out / BRANCHES)[0], key=lambda row: (*_point(row), order[row["setting"]])
    )
    write_text_durably(out / BRANCHES, _text(rows))


def _text(rows: Rows) -> str:
    return "".join(json.dumps(plain(row), allow_nan=False) + "\n" for row in rows)


def _objective(setting: Arm) -> dict[str, Any]:
    """Name and coefficients, as plain values."""
    objective = setting.config.objective
    values = {
        name: value
        for name, value in vars(objective).items()
        if isinstance(value, str | int | float | None)
    }
    return values | {"terms": repr(setting.config.terms)}
