"""Checks of the kinds of arguments: the wrong one is named before anything is read or started."""

from numbers import Real
from pathlib import Path
from typing import Any

SHOWN = 60  # characters of a wrong value


def check_kind(name: str, value: Any, kinds: type | tuple[type, ...], allowed: str) -> None:
    """Raise ValueError unless `value` is of one of the kinds; True and False are no numbers.

    Args:
        name: of the argument, as the user calls it.
        allowed: what it may be, in words.
    """
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ValueError(f"{name} must be {allowed}; got {shown(value)}.")


def check_count(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a whole number, 1 at least."""
    if not is_whole(value) or value < 1:
        raise ValueError(f"{name} must be a whole number, 1 at least; got {shown(value)}.")


def is_whole(value: Any) -> bool:
    """Return True for a whole number; one that a data frame made a float is the same."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return is_number and float(value).is_integer()


def check_text(name: str, value: Any, allowed: str) -> None:
    """Raise ValueError unless `value` is a text, or a path, that is not empty.

    An empty one would be taken for the folder of the process.
    """
    check_kind(name, value, (str, Path), allowed)
    if not str(value):
        raise ValueError(f"{name} must be {allowed}; got an empty text.")


def shown(value: Any) -> str:
    """Return a value and its type, cut short: a frame or a config would fill the screen."""
    text = " ".join(repr(value).split())
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return f"{text} ({type(value).__name__})"
