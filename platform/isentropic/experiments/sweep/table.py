"""A live table of a sweep's runs; plain lines if stdout is no terminal."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

NUMBERS = {
    "reward": "reward/mean",
    "entropy": "entropy/mean",
    "clip": "clip/frac",
    "held-out": "eval/avg_at_k",
}


@dataclass
class Row:
    """What is shown of one run."""

    name: str
    steps: int
    state: str = "waiting"
    step: int = 0
    seen: dict[str, float] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    steps_s: float = 0.0  # spent in steps by this attempt: from line to line
    last_line: float | None = None

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Take a line of the run: this is one of its logs."""
        now = time.monotonic()
        # The first line has only its own figure; what else happened before it belongs to no step.
        self.steps_s += (
            metrics.get("time/step_s") or 0.0 if self.last_line is None else now - self.last_line
        )
        self.step, self.last_line = step, now
        self.seen |= {
            label: metrics[key]
            for label, key in NUMBERS.items()
            if isinstance(metrics.get(key), float)
        }

    def begin(self) -> None:
        """Begin an attempt: nothing of the one before counts."""
        self.steps_s, self.last_line = 0.0, None

    def log_alarm(self, record: Mapping[str, Any]) -> None:
        if record.get("state") == "raised" and record["rule"] not in self.alarms:
            self.alarms.append(str(record["rule"]))


class SweepTable:
    """Rows in the order of the sweep's runs."""

    def __init__(
        self, title: str, runs: Sequence[tuple[str, int]], stream: TextIO | None = None
    ) -> None:
        """runs: name and number of steps of each."""
        self.rows: dict[str, Row] = {}
        for name, steps in runs:
            self.add(name, steps)
        self._title = title
        # In a notebook rich would show every line in the cell, whatever the stream.
        self._console = Console(
            file=stream or sys.stdout, highlight=False, soft_wrap=True, force_jupyter=False
        )
        self._live: Live | None = None

    def __enter__(self) -> "SweepTable":
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, refresh_per_second=2, get_renderable=self.render
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def add(self, name: str, steps: int) -> None:
        """Add a run, unless it is there."""
        self.rows.setdefault(name, Row(name, steps))

    def state(self, name: str, state: str, more: str = "") -> None:
        """Show that a run changed its state."""
        self.rows[name].state = state
        if self._live is None:
            numbers = "".join(
                f"  {label} {value:.3f}" for label, value in self.rows[name].seen.items()
            )
            left = sum(
                row.state in ("waiting", "running", "interrupted") for row in self.rows.values()
            )
            self.say(
                f"{name}: {state}{numbers}{'  ' + more if more else ''}  ({left} of "
                f"{len(self.rows)} to go)"
            )

    def say(self, text: str) -> None:
        """Print a line for people, above the live table."""
        self._console.print(text, markup=False)

    def render(self) -> Table:
        table = Table(title=self._title, title_justify="left", box=None)
        for head in ("run", "state", "step", *NUMBERS, "alarms"):
            table.add_column(
                head, justify="left" if head in ("run", "state", "alarms") else "right"
            )
        for row in self.rows.values():
            numbers = [f"{row.seen[label]:.3f}" if label in row.seen else "" for label in NUMBERS]
            table.add_row(
                row.name, row.state, f"{row.step}/{row.steps}", *numbers, " ".join(row.alarms)
            )
        return table
