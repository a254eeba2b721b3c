"""docs/statements.md states the thresholds that the code decides by."""

import re
from pathlib import Path

from scipy import stats

from isentropic.experiments.statements import books
from isentropic.experiments.statements.branches import LIMIT, POINTS
from isentropic.experiments.statements.runs import SEEDS, UPDATES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "statements.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| (T\d+) \| (.+) \|$", PAGE, re.MULTILINE))


def test_the_rates_are_those_of_the_rule():
    """Of single differences: Student's t. The others are simulated, in test_rates.py."""
    null = f"{100 * stats.t.sf(LIMIT, SEEDS - 1):.1f} %"
    row = next(line for line in PAGE.splitlines() if line.startswith("| T7, T9"))
    assert row.count(null) == 2
    found = [100 * stats.nct.sf(LIMIT, SEEDS - 1, size * SEEDS**0.5) for size in (1, 2, 4)]
    assert [f"{share:.0f} %" for share in found] == re.findall(r": (\d+ %)", row)
    assert f"{100 * stats.t.sf(LIMIT, 4):.1f} % per sign" in PAGE


def test_every_statement_has_a_row():
    assert list(ROWS) == [f"T{number}" for number in range(13)]


def test_the_thresholds_are_those_of_the_code():
    assert all(
        f"beyond {LIMIT:g} s.e." in ROWS[name]
        for name in ("T2", "T3", "T4", "T5", "T7", "T9", "T11")
    )
    assert f"at least {UPDATES} updates" in ROWS["T2"]
    assert f"at least {POINTS} points" in ROWS["T3"]
    assert all(f"at least {SEEDS} seeds" in ROWS[name] for name in ("T5", "T7", "T9"))
    assert f"at least {books.MEASURED} measured steps" in ROWS["T11"]
    assert f"{books.SETTLING} steps after" in ROWS["T12"]
    assert f"at most {books.BAND:g} nats" in ROWS["T12"]
    assert f"at least {books.SEEDS} seeds" in ROWS["T12"]
