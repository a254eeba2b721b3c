"""Reads JSON files that anybody may have written: any types, any sizes, any nesting."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from isentropic.metrics.sinks.jsonl import read_lines

LARGEST = 1e100  # sums and squares of such numbers are still finite
LARGEST_WHOLE = 2**53  # up to here a float, and so a browser, holds every whole number


def is_number(value: Any) -> bool:
    """Tells whether a value of a JSON file is a number that can be drawn and averaged.

    true, false, null, NaN and infinity are none, and neither is one beyond 1e100.
    """
    return type(value) in (int, float) and abs(value) <= LARGEST


def whole(value: Any) -> int | None:
    """Returns a step or a version as an int, also if it was written as 3.0; None if it is none."""
    fits = is_number(value) and 0 <= value <= LARGEST_WHOLE and value == int(value)
    return int(value) if fits else None


def words(value: Any) -> str:
    """Returns str(value), or '...' if Python cannot print it: nested or long beyond its limits."""
    try:
        return str(value)
    except (RecursionError, ValueError):
        return "..."


def is_file(path: Path) -> bool:
    """Tells whether there is a regular file at `path`, or at the end of the links there.

    Raises ValueError if the system does not say: a folder that may not be entered, links in a ring.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read: {error.strerror}. Give yourself access to it, or remove it."
        ) from error


def read_json(path: Path) -> Any:
    """Returns the value of a JSON file, None if there is no file. Raises ValueError naming it."""
    if not _is_there(path):
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ValueError(f"{path} cannot be read: {reason}. Restore or remove it.") from error


def read_rows(path: Path) -> tuple[list[Any], bool]:
    """Returns the values of a JSONL file, and whether its last line is torn (it is left out).

    Raises ValueError, naming the file, if any other line is damaged.
    """
    if not _is_there(path):
        return [], False
    return read_lines(path)


def _is_there(path: Path) -> bool:
    """Raises ValueError for what is no file: reading a pipe, say, would wait for ever."""
    if is_file(path):
        return True
    if os.path.lexists(path):
        raise ValueError(
            f"{path} is no file that can be read, but a folder, a broken link or a device. "
            "Restore or remove it."
        )
    return False
