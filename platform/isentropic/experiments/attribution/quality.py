"""How well the books balance: over updates and steps, from rows of updates.jsonl and steps."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from isentropic.metrics.classes import CLASSES

Rows = Sequence[Mapping[str, Any]]
FEWEST = 3  # rows; of fewer the variance says nothing


def explained(rows: Rows, missed: str) -> float:
    """Returns the share of the variance of the measured changes that is explained.

        1 - sum missed^2 / sum (measured - mean)^2

    missed: key of what is not explained: ledger/curvature (first order), ledger/residual
        (trapezoid).

    NaN for fewer than three rows, or if nothing varied.
    """
    measured = np.array([row["ledger/measured"] for row in rows], dtype=np.float64)
    errors = np.array([row[missed] for row in rows], dtype=np.float64)
    spread = float(np.sum((measured - measured.mean()) ** 2)) if len(rows) >= FEWEST else 0.0
    return 1 - float(np.sum(errors**2)) / spread if spread else math.nan


def quality(steps: Rows, updates: Rows) -> dict[str, float]:
    """Returns what is promised of the books, over rows that have them.

    identity: largest |now + momentum + decay - trapezoid|, over the sum of the three sizes.
    tokens: largest |sum of the tokens - now|, over the sum of the sizes of the classes.
    exact: as `identity`, of the owners of the momentum; only where they were followed.
    """
    found = {
        f"{order}_{unit}": explained(rows, f"ledger/{missed}")
        for unit, rows in (("steps", steps), ("updates", updates))
        for order, missed in (("first", "curvature"), ("trapezoid", "residual"))
    }
    made = [row for row in updates if not row.get("skipped")]
    found["identity"] = max(
        (
            gap([row[f"ledger/{part}"] for part in ("now", "momentum", "decay")], row)
            for row in made
        ),
        default=math.nan,
    )
    found["tokens"] = max(
        (
            _relative(
                row["ledger/tokens"] - row["ledger/now"],
                [row[f"ledger/{name}"] for name in CLASSES],
            )
            for row in made
        ),
        default=math.nan,
    )
    if ways := _ways(made):
        found["exact"] = max(gap(_owners(row, way), row) for row in made for way in ways)
    return found


def gap(parts: Sequence[float], row: Mapping[str, Any]) -> float:
    """Returns |sum of the parts - trapezoid| over the sum of their sizes."""
    return _relative(sum(parts) - row["ledger/trapezoid"], parts)


def _relative(error: float, parts: Sequence[float]) -> float:
    size = sum(map(abs, parts))
    return abs(error) / size if size else 0.0


def _ways(rows: Rows) -> list[str]:
    """Returns the ways whose owners were followed."""
    keys = [key.split("/") for row in rows[-1:] for key in row if key.startswith("ledger/exact/")]
    return sorted({key[2] for key in keys if len(key) > 3})


def _owners(row: Mapping[str, Any], way: str) -> list[float]:
    parts = [value for key, value in row.items() if key.startswith(f"ledger/exact/{way}/")]
    return [*parts, row["ledger/exact/before"], row["ledger/decay"]]
