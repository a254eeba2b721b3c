"""Names that stand twice, in an object of JSON or among columns: readers take the last in silence."""

import json
from typing import Any


class Repeated(dict):
    """An object of JSON that has a key twice; `key` is its name."""

    key: str


def parse(text: str | bytes) -> Any:
    """Returns what a text of JSON says, its objects as dicts, and as `Repeated` if a key repeats.

    Raises:
        ValueError, RecursionError: it is not JSON, or is nested too deep.
    """
    return json.loads(text, object_pairs_hook=_as_object)


def repeated_key(value: Any) -> str | None:
    """Returns a key that repeats anywhere in what `parse` returned; None if none does."""
    left = [value]
    while left:  # no recursion: JSON may be nested deeper than functions
        value = left.pop()
        if isinstance(value, Repeated):
            return value.key
        if isinstance(value, dict | list):
            left.extend(value.values() if isinstance(value, dict) else value)
    return None


def repeated_column(schema: Any) -> tuple[str, int] | None:
    """Returns the first column of an Arrow schema that is there more than once, and how often.

    Columns inside another count too, as a.b.
    """
    return _repeated([(field.name, field.type) for field in schema])


def _repeated(columns: list[tuple[str, Any]], prefix: str = "") -> tuple[str, int] | None:
    names = [name for name, _ in columns]
    for name, kind in columns:
        if names.count(name) > 1:
            return f"{prefix}{name}", names.count(name)
        inner = [(field.name, field.type) for field in map(kind.field, range(kind.num_fields))]
        if inner and (found := _repeated(inner, f"{prefix}{name}.")):
            return found
    return None


def _as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    names = [name for name, _ in pairs]
    repeated = Repeated(values)
    repeated.key = next(name for name in names if names.count(name) > 1)
    return repeated
