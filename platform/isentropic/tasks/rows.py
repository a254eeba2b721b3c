"""Rows of a data set, each checked on its own: JSONL, parquet, or a data set of the Hub by name.

Readers of whole tables hide the line that is wrong, or turn the string "2" into the number 2. This one names file,
line and reason, before anything else starts.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from isentropic.checks import check_choice, nearest

SHOWN = 10  # bad rows that an error lists
Row = dict[str, Any]


class Unreadable(Exception):
    """Stands for a row that could not even be parsed."""


def read_rows(
    path: str, *, split: str, columns: Iterable[str], limit: int | None, on_bad_row: str
) -> tuple[list[Row], int]:
    """Rows in which each of `columns` is a string with something in it, and the number of rows skipped.

    `on_bad_row`: 'refuse' raises ValueError that lists the first bad rows, 'skip' leaves them out. `split` is of Hub
    data sets only. `limit` ends the reading after so many good rows.
    """
    check_choice("task.on_bad_row", on_bad_row, ("refuse", "skip"))
    columns = list(columns)
    rows, bad = [], []
    for place, row in _numbered(path, split):
        reason = str(row) if isinstance(row, Unreadable) else _reason(row, columns)
        if reason:
            bad.append(f"{place}: {reason}")
        else:
            rows.append({column: row[column] for column in columns})
        if limit is not None and len(rows) >= limit:
            break
    if bad and on_bad_row == "refuse":
        shown = "\n  ".join(bad[:SHOWN])
        more = f"\n  ... and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise ValueError(
            f"{len(bad)} bad row(s) in {path}:\n  {shown}{more}\n"
            f"Each row needs {', '.join(columns)} (task.problem_column, task.answer_column) as text. Repair the data, "
            "or leave such rows out with task.on_bad_row=skip."
        )
    if not rows:
        raise ValueError(
            f"{path} has no usable row ({len(bad)} bad). A data set needs at least one problem."
        )
    return rows, len(bad)


def _reason(row: Any, columns: list[str]) -> str | None:
    """What is wrong with a row, or None."""
    if not isinstance(row, dict):
        return f"not an object but {type(row).__name__}"
    for column in columns:
        if column not in row:
            columns_there = ", ".join(map(str, row)) or "none"
            return f"no column {column!r}.{nearest(column, map(str, row))} Columns: {columns_there}"
        value = row[column]
        if not isinstance(value, str):
            return f"{column} is {type(value).__name__} ({value!r:.40}), not text"
        if not value.strip():
            return f"{column} is empty"
        if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
            return f"{column} has characters that are not text"
    return None


def _numbered(path: str, split: str) -> Iterator[tuple[str, Any]]:
    """(place, row), the row `Unreadable` where there is none."""
    file = Path(path).expanduser()
    if file.is_dir():
        raise ValueError(
            f"task.path must be a .jsonl or .parquet file or a Hub data set, got the folder {path}."
        )
    if file.suffix in (".jsonl", ".json", ".parquet") or file.exists():
        if not file.is_file():
            raise ValueError(f"task.path: there is no file {file.absolute()}.{_neighbour(file)}")
        return _parquet(file) if file.suffix == ".parquet" else _jsonl(file)
    return _hub(path, split)


def _jsonl(file: Path) -> Iterator[tuple[str, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (
                ValueError,
                RecursionError,
            ) as error:  # broken JSON or UTF-8, or nested beyond reason
                row = Unreadable(f"not JSON ({error!s:.80})")
            yield f"{file}:{number}", row


def _parquet(file: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        for batch_number, batch in enumerate(table.iter_batches(batch_size=1024)):
            for number, row in enumerate(batch.to_pylist()):
                yield f"{file}: row {batch_number * 1024 + number}", row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a parquet file that can be read: {error}") from error


def _hub(path: str, split: str) -> Iterator[tuple[str, Any]]:
    import datasets

    try:
        rows = datasets.load_dataset(path, split=split)
    except Exception as error:  # the library has no common base class for what can go wrong here
        raise ValueError(
            f"task.path={path} is neither a file here nor a data set of the Hub with split {split!r} that can be "
            f"loaded: {error!s:.200}. Files end in .jsonl or .parquet."
        ) from error
    for number, row in enumerate(rows):
        yield f"{path}[{split}] row {number}", row


def _neighbour(file: Path) -> str:
    folder = file.parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return (
        nearest(file.name, names) if names else f" There is no folder {folder.absolute()} either."
    )
