"""How well the books balance, over the rows of steps or of updates."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

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


def quality(rows: Rows) -> dict[str, float]:
    """Returns what is promised of the books: R^2, and relative errors over all rows.

    first, trapezoid: as in `explained`.
    identity: now + momentum + decay against the trapezoid. It is the rounding of the weights: a
        float32 weight keeps about five digits of a step of 1e-4.
    tokens: the sum of the tokens against `now`.
    exact: owners + before + decay against now + momentum + decay, the largest over the ways; only
        if the momentum was followed.

    An error is the root of the sum of squares over the rows, over that of what is compared with.
    """
    found = {
        "first": explained(rows, "ledger/curvature"),
        "trapezoid": explained(rows, "ledger/residual"),
        "identity": _error((_parts(row), row["ledger/trapezoid"]) for row in rows),
        "tokens": _error((row["ledger/tokens"], row["ledger/now"]) for row in rows),
    }
    ways = sorted({key.split("/")[2] for row in rows for key in row if _is_owner(key)})
    errors = [_error((_owners(row, way), _parts(row)) for row in rows) for way in ways]
    return found | ({"exact": max(errors)} if errors else {})


def _error(pairs: Iterable[tuple[float, float]]) -> float:
    """Returns the relative error of the first of each pair; NaN if there is nothing to compare."""
    table = np.array(list(pairs), dtype=np.float64).reshape(-1, 2)
    size = float(np.linalg.norm(table[:, 1]))
    return float(np.linalg.norm(table[:, 0] - table[:, 1])) / size if size else math.nan


def _parts(row: Mapping[str, Any]) -> float:
    return row["ledger/now"] + row["ledger/momentum"] + row["ledger/decay"]


def _is_owner(key: str) -> bool:
    return key.startswith("ledger/exact/") and key != "ledger/exact/before"


def _owners(row: Mapping[str, Any], way: str) -> float:
    owned = sum(value for key, value in row.items() if key.startswith(f"ledger/exact/{way}/"))
    # A row whose updates were all skipped has no owners.
    return owned + row.get("ledger/exact/before", 0.0) + row["ledger/decay"]
