"""Rows of a data set, each checked on its own; what is wrong is reported once per kind."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from isentropic.checks import check_choice, nearest
from isentropic.tasks.data import floats
from isentropic.tasks.data.sources import Place, Unreadable, read_source
from isentropic.tasks.progress import announced, say_on_stderr

SHOWN = 5  # places of a kind of bad row that an error lists
SHOWN_KINDS = 10
# What data sets call the same column: the spelling is far, the meaning is near.
ALIKE = (
    ("problem", "question", "prompt", "query", "instruction", "input", "messages"),
    ("answer", "final_answer", "expected_answer", "ground_truth", "solution", "target", "label"),
)
WHOLE = ""  # the key of the row as it was, if that is asked for
ROLES = ("system", "user", "assistant")
Row = dict[str, Any]
Messages = tuple[dict[str, str], ...]
Reader = Callable[[Any], Any]


class BadValue(ValueError):
    """What is wrong with a value, and the value if that helps."""

    def __init__(self, reason: str, example: Any = None) -> None:
        super().__init__(reason)
        self.example = example


def read_rows(
    path: str,
    *,
    split: str,
    columns: Mapping[str, Reader],
    limit: int | None,
    on_bad_row: str,
    key: str = "task.path",
    whole: Callable[[Mapping[str, Any]], Any] | None = None,
    together: Callable[[Sequence[Row]], Mapping[int, "BadValue"]] = lambda rows: {},
    say: Callable[[str], None] = say_on_stderr,
) -> tuple[list[Row], int]:
    """Returns the rows whose columns have values that their readers take, and how many lack them.

    Args:
        path: a file, a folder, or a data set of the Hub; see `sources.EXPECTED`.
        split: of folders and data sets of the Hub.
        columns: name -> what reads its value, or raises BadValue. `a.b` is the column b inside a.
        limit: ends the reading after so many good rows.
        on_bad_row: 'refuse' raises if any row is bad, 'skip' leaves such rows out.
        key: where the path stands in the config, for errors.
        whole: makes of a row what is kept of all its columns, under WHOLE; None: nothing is.
        together: says what is wrong with good rows beside each other, by their index.
        say: gets a line of progress every few seconds, if the reading takes long.

    Raises:
        ValueError: bad rows, with their kinds, counts and places; or no usable row.
    """
    check_choice("task.on_bad_row", on_bad_row, ("refuse", "skip"))
    rows: list[Row] = []
    places: list[Place] = []
    bad: dict[str, list[tuple[Place, Any]]] = {}
    for place, row in announced(read_source(path, split, key), f"reading rows of {path}", say):
        try:
            values = _read_row(row, columns)
            rows.append(values if whole is None else values | {WHOLE: whole(row)})
            places.append(place)
        except BadValue as error:
            bad.setdefault(str(error), []).append((place, error.example))
        if limit is not None and len(rows) >= limit:
            break
    for index, error in (wrong := together(rows)).items():
        bad.setdefault(str(error), []).append((places[index], error.example))
    rows = [row for index, row in enumerate(rows) if index not in wrong]
    skipped = sum(map(len, bad.values()))
    if bad and (on_bad_row == "refuse" or not rows):
        raise ValueError(
            f"{skipped} bad row(s) in {path}, {len(rows)} good:\n{_kinds(bad)}\n"
            f"Each row needs {', '.join(columns)} (task.problem_column, task.answer_column; a.b is "
            "b inside a). Repair the data"
            + (", or leave such rows out with task.on_bad_row=skip." if rows else ".")
        )
    if not rows:
        raise ValueError(f"{path} has no usable row: it is empty. Give at least one problem.")
    return rows, skipped


def as_text(value: Any) -> str:
    """A text with something in it."""
    if not isinstance(value, str):
        raise BadValue(f"is {_kind(value)}, not text", value)
    return _checked(value)


def as_answer(value: Any) -> str:
    """An answer as text: numbers are written out (204.0 as 204), a list of one is its element.

    The noise of floats is left out: 0.30000000000000004 is 0.3.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal):
        if not math.isfinite(value):
            raise BadValue("is not a finite number", value)
        if value == int(value) and abs(value) < 2**53:
            return str(int(value))
        return floats.as_text(value) if isinstance(value, float) else str(value)
    return str(value) if isinstance(value, int) else as_text(value)


def as_prompt(value: Any) -> str | Messages:
    """A problem as text, or as the chat messages that ask it; the last one is the user's."""
    if not isinstance(value, list | tuple):
        return as_text(value)
    messages = tuple(_message(message) for message in value)
    if not messages or messages[-1]["role"] != "user":
        raise BadValue("is a list of messages that does not end with one of the user")
    return messages


def _message(message: Any) -> dict[str, str]:
    role = message.get("role") if isinstance(message, Mapping) else None
    if role not in ROLES:
        raise BadValue(f"has a message whose role is none of {', '.join(ROLES)}", message)
    content = message.get("content")
    if isinstance(content, list | tuple):  # parts, as for models that read images too
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        if len(texts) != len(content) or not all(isinstance(text, str) for text in texts):
            raise BadValue("has a message with a part that is not text", message)
        content = "".join(texts)
    if not isinstance(content, str):
        raise BadValue(f"has a message whose content is {_kind(content)}, not text", message)
    return {"role": role, "content": _checked(content)}


def _checked(text: str) -> str:
    if not text.strip():
        raise BadValue("is empty")
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise BadValue("has characters that are not text")
    return text


def _read_row(row: Any, columns: Mapping[str, Reader]) -> Row:
    if isinstance(row, Unreadable):
        raise BadValue(row.reason, row.detail)
    if not isinstance(row, Mapping):
        raise BadValue(f"not an object but {_kind(row)}", row)
    values = {}
    for column, read in columns.items():
        value = _value(row, column)
        try:
            values[column] = read(value)
        except BadValue as error:
            raise BadValue(f"{column} {error}", error.example) from error
    return values


def _value(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, which may lie inside another: `reward_model.ground_truth`."""
    if column in row:
        return row[column]
    value: Any = row
    for name in column.split("."):
        if not isinstance(value, Mapping) or name not in value:
            names = list(_names(row))
            raise BadValue(
                f"no column {column!r}.{_meant(column, names)} "
                f"Columns: {', '.join(names) or 'none'}"
            )
        value = value[name]
    return value


def _meant(column: str, names: list[str]) -> str:
    """ " Did you mean 'question'?" for the nearest column by spelling, else by meaning."""
    alike = next((group for group in ALIKE if column.rpartition(".")[2] in group), ())
    found = [name for word in alike for name in names if name.rpartition(".")[2].lower() == word]
    return nearest(column, names) or (f" Did you mean {found[0]!r}?" if found else "")


def _names(row: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for name, value in row.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping) and not prefix:
            yield from _names(value, f"{name}.")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, Mapping) else type(value).__name__


def _kinds(bad: Mapping[str, list[tuple[Place, Any]]]) -> str:
    """One line per kind of bad row, the most frequent first."""
    kinds = sorted(bad.items(), key=lambda kind: -len(kind[1]))
    lines = []
    for reason, rows in kinds[:SHOWN_KINDS]:
        (first, example), others = rows[0], [str(place.number) for place, _ in rows[1:]]
        more = f" and {len(others)} more ({', '.join(others[:SHOWN])}" if others else ""
        more += (", ...)" if len(others) > SHOWN else ")") if others else ""
        such = "" if example is None else f", such as {example!r:.60}"
        lines.append(f"  {first}{more}: {reason}{such}")
    if len(kinds) > SHOWN_KINDS:
        lines.append(f"  ... and {len(kinds) - SHOWN_KINDS} more kinds")
    return "\n".join(lines)
