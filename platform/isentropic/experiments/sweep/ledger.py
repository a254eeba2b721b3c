"""sweep.jsonl: what became of each run of a sweep, which goes on from it after any stop."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from isentropic.durable import append_durably, when_there_is_room, write_text_durably
from isentropic.metrics.sinks.jsonl import plain, read_lines

LEDGER = "sweep.jsonl"
PLAN = "sweep.json"  # what the sweep was started with
RUNNING = "running"
DONE = "done"
STOPPED = "stopped by an alarm"
PRUNED = "pruned"  # by a search: others were better at the same step
FAILED = "failed"
INTERRUPTED = "interrupted"
OVER = (DONE, STOPPED, PRUNED)  # not run again
STATES = (RUNNING, FAILED, INTERRUPTED, *OVER)


class SweepLedger:
    """Appends a row for each change of a run's state; the last row of a run counts."""

    def __init__(self, folder: Path) -> None:
        """Read the ledger; a torn last line, of a process that was killed, is dropped.

        Raises:
            ValueError: a line that is no row of a sweep; a folder that cannot be made.
        """
        _make(folder)
        self._path = folder / LEDGER
        rows, torn = read_lines(self._path)
        for number, row in enumerate(rows, start=1):
            if not _is_row(row):
                raise ValueError(
                    f"{self._path} line {number} is no row of a sweep (hash, run, state, attempts): "
                    f"{json.dumps(row)[:120]}. Restore the file, or move it away: runs that are "
                    "finished then say so themselves."
                )
        if torn:
            write_text_durably(self._path, "".join(json.dumps(row) + "\n" for row in rows))
        self.rows: dict[str, dict[str, Any]] = {row["hash"]: row for row in rows}
        self.began = str(rows[0].get("time")) if rows else _now()  # of no other ledger
        self._attempts: dict[str, list[float]] = {}
        for row in rows:
            self._count(row)

    def state(self, digest: str) -> str | None:
        """Return the state of a run; None if it never started."""
        return self.rows[digest]["state"] if digest in self.rows else None

    def attempts(self, digest: str) -> list[float]:
        """Return the seconds of each attempt at a run that ended, of whatever start."""
        return self._attempts.get(digest, [])

    def write(self, digest: str, **values: Any) -> None:
        """Append a row with values such as run, overrides, state and attempts."""
        now = _now() if self.rows else self.began
        row = plain({"hash": digest, "time": now, **values})
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        when_there_is_room(partial(append_durably, self._path, line))
        self.rows[digest] = row
        self._count(row)

    def _count(self, row: Mapping[str, Any]) -> None:
        if isinstance(row.get("seconds"), int | float):
            self._attempts.setdefault(row["hash"], []).append(row["seconds"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_plan(folder: Path) -> list[str] | None:
    """Return the arguments that the sweep of a folder was started with; None if there is no sweep.

    Raises:
        ValueError: the file is damaged.
    """
    plan = _read_plan(folder)
    return None if plan is None else plan["arguments"]


def check_preset(folder: Path, preset: Mapping[str, Any]) -> None:
    """Refuse a YAML file whose content is not what the sweep of a folder was started with.

    Runs that it no longer names would be dropped, and others begun under the sweep's name.

    Raises:
        ValueError: with the parts that differ.
    """
    before = (_read_plan(folder) or {}).get("preset")
    if before is None:
        return
    # As texts: the order of keys is that in which points are drawn and overrides written.
    old, new = ({part: json.dumps(x[part], default=str) for part in x} for x in (before, preset))
    parts = [part for part in old | new if old.get(part) != new.get(part)]
    if not parts:
        return
    raise ValueError(
        f"the sweep's YAML file has changed since {folder} was started with it, in {', '.join(parts)}. Its "
        f"content of then is in {folder / PLAN}, under preset: put it back to go on; for what it says "
        "now start another sweep: name=<another>."
    )


def _read_plan(folder: Path) -> dict[str, Any] | None:
    path = folder / PLAN
    if not path.exists():
        return None
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        arguments = plan["arguments"]
        if not isinstance(arguments, list) or not all(isinstance(text, str) for text in arguments):
            raise TypeError("arguments must be a list of texts")
        if not isinstance(plan.get("preset") or {}, dict):
            raise TypeError("preset must be an object")
        return plan
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} does not say what the sweep was started with ({type(error).__name__}: "
            f"{error}). Restore it, or start another sweep: name=<another>."
        ) from error


def write_plan(folder: Path, arguments: Sequence[str], preset: Mapping[str, Any]) -> None:
    """Keep what the sweep was started with: its arguments, and the content of its YAML file."""
    _make(folder)
    plan = {"arguments": list(arguments), "preset": dict(preset)}
    write_text_durably(folder / PLAN, json.dumps(plan, indent=1, default=str) + "\n")


def _make(folder: Path) -> None:
    """Make the folder of a sweep. Raises ValueError if a file has its name, or a parent's."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(
            f"{folder} cannot be made: {error.filename} is a file. Move it away, or choose another "
            "folder: name=<another>."
        ) from error


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("hash"), str)
        and row.get("state") in STATES
        and type(row.get("attempts", 1)) is int
    )
