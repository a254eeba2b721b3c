"""metrics.csv: the numbers of metrics.jsonl as a table, for a spreadsheet."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from isentropic.durable import replace_durably
from isentropic.metrics.sinks.jsonl import LOGS, read_lines

NAME = "metrics.csv"


class CsvSink:
    """One row per step; a metric that comes later gets a column of its own, empty before.

    A file that cannot be written is reported once and then left alone: metrics.jsonl has everything.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        """Begins with the lines that metrics.jsonl has: none for a new run.

        What was missed while the file could not be written, or was not asked for, is there again.
        """
        self._path = folder / NAME
        self._lines = folder / LOGS[0]
        self._warn: Callable[[str], None] | None = warn
        self._columns: list[str] = []
        self._last = -1
        self._guarded(self._open)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes a step; one that a resumed run trains again replaces the row it had."""
        self._guarded(lambda: self._add({"step": step} | _numbers(metrics)))

    def log_alarm(self, record: Mapping[str, Any]) -> None:
        """Leaves alarms to alarms.jsonl: they are no numbers."""

    def close(self) -> None:
        """Does nothing: every row is written when it comes."""

    def _open(self) -> None:
        rows = [_numbers(line) for line in read_lines(self._lines)[0]]
        if rows:
            self._columns = list(dict.fromkeys(key for row in rows for key in row))
            self._last = int(rows[-1]["step"])
            with replace_durably(self._path) as temporary:
                self._write(temporary, rows, mode="w")

    def _rows(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _add(self, row: Mapping[str, Any]) -> None:
        new = [key for key in row if key not in self._columns]
        if new or row["step"] <= self._last:
            self._columns += new
            kept = [old for old in self._rows() if int(old["step"]) < row["step"]]
            with replace_durably(self._path) as temporary:
                self._write(temporary, [*kept, row], mode="w")
        else:
            self._write(self._path, [row], mode="a")
        self._last = row["step"]

    def _write(self, path: Path, rows: list[Mapping[str, Any]], *, mode: str) -> None:
        with path.open(mode, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            if mode == "w":
                writer.writeheader()
            writer.writerows(rows)

    def _guarded(self, call: Callable[[], None]) -> None:
        if self._warn is None:
            return
        try:
            call()
        except (OSError, ValueError, KeyError, csv.Error) as error:
            self._warn(f"{self._path} cannot be written and is left alone from here on: {error}")
            self._warn = None


def _numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if isinstance(value, int | float)}
