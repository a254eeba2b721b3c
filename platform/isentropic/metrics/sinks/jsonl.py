"""metrics.jsonl, updates.jsonl, alarms.jsonl: the record that everything else mirrors."""

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from isentropic.durable import append_durably, replace_durably, sync_file, when_there_is_room

LOGS = ("metrics.jsonl", "updates.jsonl", "alarms.jsonl")


def plain(value: Any) -> Any:
    """Converts `value` to strict JSON: numpy to numbers and lists, NaN and infinity to null."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value


def read_lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Reads the objects of a JSONL file; the bool: a crash tore the last line, which is left out.

    Raises ValueError if any other line is invalid (a crash can only tear the last one) or if the
    file is unreadable.
    """
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read: {error.strerror}. It should be a file that you may read."
        ) from error
    # What follows the last newline: nothing, unless the last line is torn.
    rest = lines.pop() if lines else b""
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except RecursionError as error:
            raise ValueError(
                f"{path}, line {number} is nested too deep to be read: {line[:80]!r}. Restore the "
                "file or remove the line."
            ) from error
        except ValueError as error:
            if number == len(lines) and not rest:
                return rows, True
            raise ValueError(
                f"{path}, line {number} is not JSON: {line[:80]!r}. Only a torn last line is "
                "repaired on resume; restore the file or remove the line."
            ) from error
    return rows, bool(rest)


def sync_logs(folder: Path) -> None:
    """Forces the lines that the run has written so far to disk."""
    for path in (folder / name for name in LOGS):
        if path.exists():
            sync_file(path)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Adds a row to a file that several processes may add to, without a torn one before it."""
    with path.open("a+b") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        if whole < file.tell():
            file.truncate(whole)
    when_there_is_room(partial(append_durably, path, _line(row).encode()))


class JsonlFile:
    """Appends one object per line, unbuffered: a killed process loses nothing it has logged.

    Opened for resume it first drops the lines of later steps, and a torn last line, in one atomic
    replacement. A disk that stays full raises OSError: this is the record of the run, and its loss
    must not go unseen.
    """

    def __init__(self, path: Path, *, resume_step: int | None = None) -> None:
        """Opens the file.

        Args:
            resume_step: the last step to keep; None: start a new file, never overwrite an old one.
        """
        if resume_step is None:
            self._file = path.open("xb", buffering=0)
            return
        rows, _ = read_lines(path)
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict) or type(row.get("step")) is not int:
                raise ValueError(
                    f"{path}, line {number} is not a line of a run (an object with a whole number "
                    f"`step`): {json.dumps(row)[:80]}. Restore the file or remove the line."
                )
        with replace_durably(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(_line(row) for row in rows if row["step"] <= resume_step)
        self._file = path.open("ab", buffering=0)

    def write(self, row: Mapping[str, Any]) -> None:
        rest = memoryview(_line(row).encode())
        # A disk that fills takes only a part: writing the whole line again would double its start.
        while rest:
            rest = rest[when_there_is_room(partial(self._file.write, rest)) :]

    def close(self) -> None:
        self._file.close()


class JsonlSink:
    """The three files of a run folder."""

    def __init__(self, folder: Path, *, resume_step: int | None = None) -> None:
        metrics, updates, alarms = (folder / name for name in LOGS)
        self._metrics = JsonlFile(metrics, resume_step=resume_step)
        self._updates = JsonlFile(updates, resume_step=resume_step)
        self._alarms = JsonlFile(alarms, resume_step=resume_step)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Writes a line of metrics.jsonl; the step comes first."""
        self._metrics.write({"step": step} | metrics)

    def log_updates(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Writes a line of updates.jsonl per optimizer step; `update` is its index in the step."""
        for index, row in enumerate(rows):
            self._updates.write({"step": step, "update": index} | row)

    def log_alarm(self, record: dict[str, Any]) -> None:
        self._alarms.write(record)

    def close(self) -> None:
        for file in (self._metrics, self._updates, self._alarms):
            file.close()


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(plain(row), allow_nan=False, ensure_ascii=False) + "\n"
