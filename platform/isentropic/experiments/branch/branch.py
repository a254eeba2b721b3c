"""From one state, the same updates under each setting: what a coefficient does, all else equal.

Between runs of different settings everything differs after a step: rollouts, weights, chance. Here
weights, optimizer, rollouts, order and seeds are the same, and the entropy after the step is
measured on the same contexts, so the differences are the setting's own. docs/statements.md, T3.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from isentropic.durable import write_text_durably
from isentropic.experiments.branch.arms import Setting
from isentropic.experiments.branch.point import Comparison, Rows
from isentropic.experiments.branch.workers import branch_workers
from isentropic.experiments.run.prepare import Prepared
from isentropic.metrics.report.branches import BRANCHES
from isentropic.metrics.sinks.jsonl import plain, read_lines

SETTINGS = "settings.json"  # in the branch folder: label -> overrides, objective


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
    """
    done = begin(out, comparison.settings, comparison.orders)
    left = sorted(set(points) - done)
    made = 0

    def keep(rows: Rows) -> None:
        nonlocal made
        made += 1
        append(out, rows)
        entropies = ", ".join(f"{row['setting']}: {row['entropy']:.4f}" for row in rows)
        say(f"after step {rows[0]['step']} ({made}/{len(left)})  entropy  {entropies}")

    await branch_workers(comparison, prepared, left, processes, keep)
    _sort(out, comparison.settings)


def begin(out: Path, settings: Sequence[Setting], orders: int) -> set[int]:
    """Writes the settings, or checks those that are there; the points with a row of every setting.

    Raises ValueError if the folder has branches of other settings.
    """
    described = {
        setting.label: {
            "overrides": setting.overrides,
            "objective": _objective(setting),
            "orders": orders,
        }
        for setting in settings
    }
    text = json.dumps(plain(described), indent=1, default=str) + "\n"
    path = out / SETTINGS
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{out} has branches of other settings ({path}). Choose another folder: out=<folder>."
        )
    out.mkdir(parents=True, exist_ok=True)
    write_text_durably(path, text)
    rows, torn = read_lines(out / BRANCHES)
    by_point: dict[int, set[str]] = {}
    for row in rows:
        by_point.setdefault(row["step"], set()).add(row["setting"])
    done = {point for point, labels in by_point.items() if labels == set(described)}
    kept = [row for row in rows if row["step"] in done]
    # A killed process leaves a point half written: it is made again.
    if torn or len(kept) < len(rows):
        write_text_durably(out / BRANCHES, _text(kept))
    return done


def append(out: Path, rows: Rows) -> None:
    """Adds the rows of a point to the file."""
    with (out / BRANCHES).open("a", encoding="utf-8") as file:
        file.write(_text(rows))


def _sort(out: Path, settings: Sequence[Setting]) -> None:
    """Sorts rows by point, then in the order of the settings, whichever process was first."""
    order = {setting.label: number for number, setting in enumerate(settings)}
    rows = sorted(
        read_lines(out / BRANCHES)[0], key=lambda row: (row["step"], order[row["setting"]])
    )
    write_text_durably(out / BRANCHES, _text(rows))


def _text(rows: Rows) -> str:
    return "".join(json.dumps(plain(row), allow_nan=False) + "\n" for row in rows)


def _objective(setting: Setting) -> dict[str, Any]:
    """Name and coefficients, as plain values."""
    objective = setting.config.objective
    values = {
        name: value
        for name, value in vars(objective).items()
        if isinstance(value, str | int | float | None)
    }
    return values | {"terms": repr(setting.config.terms)}
