"""sweep.jsonl: what became of each run of a sweep. A sweep goes on from it after whatever stopped it."""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isentropic.durable import write_text_durably
from isentropic.metrics.sinks.jsonl import plain, read_lines

LEDGER = "sweep.jsonl"
PLAN = "sweep.json"  # what the sweep was started with
RUNNING, DONE, STOPPED, FAILED, INTERRUPTED = (
    "running",
    "done",
    "stopped by an alarm",
    "failed",
    "interrupted",
)
OVER = (DONE, STOPPED)  # not run again


class SweepLedger:
    """Appends a row for each change of a run's state; the last row of a run counts."""

    def __init__(self, folder: Path) -> None:
        """A torn last line, of a process that was killed, is dropped."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / LEDGER
        rows, torn = read_lines(self._path)
        if torn:
            write_text_durably(self._path, "".join(json.dumps(row) + "\n" for row in rows))
        self.rows: dict[str, dict[str, Any]] = {row["hash"]: row for row in rows}

    def state(self, digest: str) -> str | None:
        """Of the run; None where it never started."""
        return self.rows[digest]["state"] if digest in self.rows else None

    def write(self, digest: str, **about: Any) -> None:
        """about: run, overrides, state, attempts, ..."""
        row = plain(
            {"hash": digest, "time": datetime.now(UTC).isoformat(timespec="seconds"), **about}
        )
        self.rows[digest] = row
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_plan(folder: Path) -> list[str] | None:
    """The arguments that the sweep of a folder was started with; None where there is no sweep."""
    path = folder / PLAN
    return (
        list(json.loads(path.read_text(encoding="utf-8"))["arguments"]) if path.exists() else None
    )


def write_plan(folder: Path, arguments: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text_durably(folder / PLAN, json.dumps({"arguments": list(arguments)}, indent=1) + "\n")
