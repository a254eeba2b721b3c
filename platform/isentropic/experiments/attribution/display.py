"""What an attribution shows: a progress bar, tables in nats per step, how well the books balance."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from isentropic.experiments.attribution.measure import Measured

HEAD = ("measured", "first", "trapezoid", "residual")
ERRORS = {
    "identity": "now + momentum + decay against trapezoid",
    "tokens": "tokens against now",
    "exact": "owners of the momentum against now + momentum",
}
COLUMN = 14  # characters, at most
SHOWN = 6  # numbers that differ, by name


class Display:
    """Shows an attribution on one stream: a live bar on a terminal, else a line per step."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream or sys.stdout, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._done = 0
        self._total = 0

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    @contextmanager
    def bar(self, total: int) -> Iterator[None]:
        """Shows the bar while the context lives; total: steps that are trained."""
        self._total = total
        if not self._console.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as self._progress:
            self._task = self._progress.add_task("starting", total=total)
            yield
        self._progress = None

    def begin(self, step: int, *, measured: bool) -> None:
        if self._progress is not None:
            kind = "measured" if measured else "on the way"
            self._progress.update(self._task, description=f"step {step}, {kind}")

    def end(self, step: int, outcome: Measured, row: Mapping[str, Any] | None) -> None:
        """Takes a step's outcome, and its row if it was measured."""
        self._done += 1
        if self._progress is not None:
            self._progress.advance(self._task)
        elif row is None or not outcome.rows:
            kind = "on the way" if row is None else "no updates: nothing to measure"
            self.say(f"step {step} ({self._done}/{self._total})  {kind}")
        else:
            numbers = "  ".join(f"{name} {row[f'ledger/{name}']:+.6f}" for name in HEAD)
            self.say(f"step {step} ({self._done}/{self._total})  {numbers}")
        if outcome.differing:
            names = ", ".join(outcome.differing[:SHOWN])
            self.say(
                f"step {step}: {len(outcome.differing)} numbers are not those of the recorded "
                f"line: {names}"
            )
        if not outcome.repeated:
            self.say(f"step {step}: the measured pass is not the first one, bit for bit")

    def tables(self, rows: Sequence[Mapping[str, Any]], by: Sequence[str], *, exact: bool) -> None:
        """Prints a table for each way to sort the tokens, and their sums over the steps."""
        if not rows:
            self.say("no step has updates: there is nothing to show.")
            return
        for way in by:
            table = _table(rows, way, exact=exact)
            # As wide as it needs: a number without its end is another number.
            wide = Console(file=self._console.file, width=COLUMN * len(table.columns))
            wide.print(table, highlight=False)

    def quality(self, found: Mapping[str, Mapping[str, float]]) -> None:
        """Prints how well the books balance, over the steps and over the updates."""
        for unit, numbers in found.items():
            errors = ", ".join(
                f"{label} {numbers[key]:.1e}" for key, label in ERRORS.items() if key in numbers
            )
            self.say(f"over the {unit}: relative errors: {errors}")
            if math.isfinite(numbers["first"]):
                self.say(
                    f"    R² of the measured change: first order {numbers['first']:.5f}, "
                    f"trapezoid {numbers['trapezoid']:.5f}"
                )


def _table(rows: Sequence[Mapping[str, Any]], way: str, *, exact: bool) -> Table:
    names_of = f"ledger/by/{way}/"
    prefix = f"ledger/exact/{way}/" if exact else names_of
    found = dict.fromkeys(key for row in rows for key in row if key.startswith(names_of))
    keys = [prefix + key.removeprefix(names_of) for key in found]
    # A class that never had a token says nothing.
    keys = [key for key in keys if any(row.get(key) for row in rows)]
    rest = ["ledger/exact/before"] if exact else ["ledger/momentum"]
    names = {"ledger/exact/before": "before", "ledger/momentum": "momentum"}
    columns = [
        *((f"ledger/{name}", name) for name in HEAD),
        *((key, key.removeprefix(prefix)) for key in keys),
        *((key, names[key]) for key in rest),
        ("ledger/decay", "decay"),
    ]
    owned = "with the momentum that is theirs" if exact else "by this update's gradient"
    table = Table(
        title=f"thousandths of a nat per token, tokens by {way}, {owned}",
        title_justify="left",
        box=None,
    )
    table.add_column("step", justify="right")
    for _, name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(str(row["step"]), *(_milli(row.get(key, 0.0)) for key, _ in columns))
    if len(rows) > 1:
        totals = [sum(row.get(key, 0.0) for row in rows) for key, _ in columns]
        table.add_row("sum", *map(_milli, totals))
    return table


def _milli(value: float) -> str:
    return f"{1000 * value:+.3f}"
