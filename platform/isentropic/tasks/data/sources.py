"""Rows of a data set, each with its place: files, folders, and data sets of the Hub.

Readers of whole tables hide the line that is wrong, or turn the text "2" into the number 2. So a
format that has lines is read line by line; the `datasets` library reads the rest.
"""

import csv
import errno
import gzip
import io
import itertools
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from isentropic.checks import nearest
from isentropic.tasks.data.floats import narrow_columns, widened
from isentropic.tasks.data.repeated import Repeated, parse, repeated_column, repeated_key

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
TABLES = {".csv": ",;\t", ".tsv": "\t,;"}  # what separates their fields, the likeliest first
EXPECTED = (
    f"a file ({', '.join(FORMATS)}; .gz too), a folder (one that `datasets` saved, or one of data "
    "files), or a data set of the Hub: owner/name, owner/name:config, owner/name:config@revision"
)
# A data set of the Hub, the config that it is read in, and a branch, tag or commit of it.
HUB_NAME = re.compile(
    r"(?P<name>[\w-][\w.-]*(/[\w-][\w.-]*)?)(:(?P<config>[^@]+))?(@(?P<revision>\S+))?"
)
OFFLINE = (
    " This machine does not reach the Hub: download the data set where there is a network, and give "
    "its files here ({key}=<file or folder>). HF_HUB_OFFLINE=1 ends the attempts at once, and reads "
    "what an earlier run has downloaded."
)
SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")  # by `save_to_disk`
MAX_FIELD = 2**31 - 1  # characters of a csv field


class Unreadable(NamedTuple):
    """Stands for a row that could not even be parsed."""

    reason: str
    detail: str


class Place(NamedTuple):
    """Where a row stands: `data.jsonl:` and 7, or `data.parquet: row ` and 7."""

    source: str
    number: int

    def __str__(self) -> str:
        return f"{self.source}{self.number}"


def read_source(path: str, split: str, key: str = "task.path") -> Iterator[tuple[Place, Any]]:
    """(place, row) of each row; the row is `Unreadable` if there is none.

    Args:
        split: of folders and data sets of the Hub.
        key: where the path stands in the config, for errors.

    Raises:
        ValueError: there is no such source, or it cannot be read as a whole.
    """
    file = Path(path).expanduser()
    try:
        file.stat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError(
                f"{key}={path} has a name that is too long for this file system. It must be "
                f"{EXPECTED}."
            ) from error
    if file.is_dir():
        return _folder(file, split, key)
    kind = Path(file.name.lower().removesuffix(".gz")).suffix
    if kind not in FORMATS and not file.exists():
        return _hub(path, split, key)
    if not file.is_file():
        raise ValueError(f"{key}: there is no file {file.absolute()}.{_neighbour(file)}")
    if kind == ".parquet":
        return _parquet(file)
    if kind == ".arrow":
        return _data_set(f"{file}: row ", _with_datasets(file, lambda: _arrow(file), key))
    if kind in TABLES:
        return _table(file, kind)
    if kind not in FORMATS and not _begins_as_json(file):
        raise ValueError(
            f"{key}={path} has an ending that names no format, and its text is no JSON. It must be "
            f"{EXPECTED}."
        )
    return _json(file) if kind == ".json" else _json_lines(file)


def separator(path: str) -> str:
    """Returns what separates the fields of a table's file; "" of any other source.

    Raises:
        ValueError: it cannot be read.
    """
    file = Path(path).expanduser()
    kind = Path(file.name.lower().removesuffix(".gz")).suffix
    if kind not in TABLES or not os.path.isfile(file):  # no error for a name that is too long
        return ""
    with _opened(file) as binary:
        return _separator(binary.readline().decode("utf-8", "replace"), kind)


def _separator(first: str, kind: str) -> str:
    # Spreadsheets of many countries write a semicolon in a .csv, some programs a tab.
    return next((mark for mark in TABLES[kind] if mark in first), ",")


def _json_lines(file: Path) -> Iterator[tuple[Place, Any]]:
    with _opened(file) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield Place(f"{file}:", number), _whole(_parsed(line))


def _json(file: Path) -> Iterator[tuple[Place, Any]]:
    """Reads a list of objects, an object that holds one list (`data`), or one object per line."""
    with _opened(file) as whole:
        rows = _parsed(whole.read())
    if isinstance(rows, Repeated) and any(isinstance(value, list) for value in rows.values()):
        raise ValueError(f"{file} has the key {rows.key!r} twice. Rename or remove one of them.")
    if isinstance(rows, dict):
        lists = [value for value in rows.values() if isinstance(value, list)]
        rows = lists[0] if len(lists) == 1 and isinstance((lists[0] or [None])[0], dict) else rows
    if isinstance(rows, list):
        return _numbered(f"{file}: item ", map(_whole, rows), start=1)
    return _json_lines(file)


def _begins_as_json(file: Path) -> bool:
    """Returns whether a file of another ending may hold a JSON object per line."""
    with _opened(file) as binary:
        return binary.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"", b"{")


def _parsed(text: bytes) -> Any:
    try:
        return parse(text.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:  # JSON or UTF-8 is broken, or nested too deep
        return Unreadable("not JSON", str(error))


def _whole(row: Any) -> Any:
    """Returns a row, or that a key of it repeats: of its values the last one would win."""
    key = repeated_key(row)
    return row if key is None else Unreadable(f"has the key {key!r} twice", str(dict(row)))


def _table(file: Path, kind: str) -> Iterator[tuple[Place, Any]]:
    csv.field_size_limit(MAX_FIELD)
    try:
        with _opened(file) as binary, io.TextIOWrapper(binary, "utf-8-sig", newline="") as text:
            first = text.readline()
            rest = itertools.chain([first], text)
            yield from _table_rows(file, rest, _separator(first, kind))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: {error}. Save it as UTF-8.") from error


def _table_rows(file: Path, text: Iterable[str], delimiter: str) -> Iterator[tuple[Place, Any]]:
    rows = csv.DictReader(text, delimiter=delimiter, strict=True)
    _check_head(file, rows)
    while True:
        try:
            row: Any = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            row = Unreadable("not a row of the table", str(error))
        if isinstance(row, dict) and (None in row or None in row.values()):
            expected = len(rows.fieldnames or ())
            found = sum(value is not None for value in row.values()) + len(row.get(None) or ())
            row = Unreadable(f"not {expected} fields, as the first line has", f"{found} fields")
        yield Place(f"{file}:", rows.line_num), row


def _check_head(file: Path, rows: csv.DictReader) -> None:
    """Raises ValueError for a column name that is there twice: the last one would win."""
    try:
        names = list(rows.fieldnames or ())
    except csv.Error as error:
        raise ValueError(f"{file}: its first line, the column names, is no row: {error}") from error
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        _refuse_columns(file, twice, names.count(twice))


def _refuse_columns(file: Path, name: str, count: int) -> None:
    raise ValueError(f"{file} has {count} columns named {name!r}. Rename all but one of them.")


def _parquet(file: Path) -> Iterator[tuple[Place, Any]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        if repeated := repeated_column(table.schema_arrow):
            _refuse_columns(file, *repeated)
        narrow = narrow_columns(table.schema_arrow)
        for batch in table.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                yield Place(f"{file}: row ", number), widened(row, narrow)
                number += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a parquet file that can be read: {error}") from error


def _arrow(file: Path) -> Any:
    import datasets

    return datasets.Dataset.from_file(str(file))


def _folder(folder: Path, split: str, key: str) -> Iterator[tuple[Place, Any]]:
    saved = any((folder / name).is_file() for name in SAVED)

    def read() -> Any:
        import datasets

        if not saved:
            return datasets.load_dataset(str(folder), split=split)
        data = datasets.load_from_disk(str(folder))
        if isinstance(data, dict) and split not in data:
            raise ValueError(f"it has {', '.join(data)}.{nearest(split, data)}")
        return data[split] if isinstance(data, dict) else data

    return _data_set(f"{folder}[{split}] row ", _with_datasets(folder, read, key, split))


def _hub(path: str, split: str, key: str) -> Iterator[tuple[Place, Any]]:
    found = HUB_NAME.fullmatch(path)
    if found is None:
        raise ValueError(f"{key}={path} is no name of a data set. It must be {EXPECTED}.")

    def read() -> Any:
        import datasets

        return datasets.load_dataset(
            found["name"], found["config"], split=split, revision=found["revision"]
        )

    return _data_set(f"{path}[{split}] row ", _with_datasets(path, read, key, split))


def _with_datasets(
    path: str | Path, read: Callable[[], Any], key: str, split: str | None = None
) -> Any:
    try:
        return read()
    except Exception as error:  # the library has no common class for what can go wrong
        of_split = f" with the split {split!r} (task.train_split, task.eval_split)" if split else ""
        # What the library says itself is often that an error has occurred.
        reason = " ".join(str(error.__cause__ or error).split())
        offline = OFFLINE.format(key=key) if isinstance(error, ConnectionError) else ""
        raise ValueError(
            f"{key}={path}{of_split} cannot be read ({type(error).__name__}: {reason:.200}). "
            f"It must be {EXPECTED}.{offline}"
        ) from error


def _data_set(source: str, rows: Any) -> Iterator[tuple[Place, Any]]:
    narrow = narrow_columns(rows.features.arrow_schema)
    for place, row in _numbered(source, rows):
        yield place, widened(row, narrow)


def _numbered(source: str, rows: Any, start: int = 0) -> Iterator[tuple[Place, Any]]:
    for number, row in enumerate(rows, start=start):
        yield Place(source, number), row


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Opens the file, unpacked if it is a .gz; what is damaged in it shows as it is read."""
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as binary:
            yield binary
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{file} cannot be read ({type(error).__name__}: {error}). It is cut, damaged or not "
            "yours to read: copy it again, or give another file."
        ) from error


def _neighbour(file: Path) -> str:
    folder = file.parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return (
        nearest(file.name, names) if names else f" There is no folder {folder.absolute()} either."
    )
