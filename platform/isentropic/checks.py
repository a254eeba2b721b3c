"""Checks of what a user gave. An error says what is wrong, what was given, what is allowed."""

import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping
from datetime import date
from numbers import Real

NAME_BYTES = 255  # of one folder or file: the limit of the usual file systems
SECRET_LENGTH = 8  # characters; a shorter value turns up by chance
SECRET_WORDS = {"key", "keys", "pat", "pass", "auth", "credential", "credentials"}
SECRET_ENDS = ("key", "token", "secret", "password", "passwd", "passphrase")
NOT_SECRET = (
    "path",
    "file",
    "dir",
    "mode",
    "url",
    "sock",
)  # ends of names that only point somewhere


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest allowed name, or nothing."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def check_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(
            f"{key} must be one of {', '.join(allowed)}; got "
            f"{value!r}.{nearest(str(value), allowed)}"
        )


def check_range(
    key: str,
    value: float,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    hint: str = "",
) -> None:
    """Raise ValueError unless `value` is a finite number inside the named bounds."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{key} must be a number, got {value!r}.{' ' + hint if hint else ''}")
    bounds = [
        (above is None or value > above, f"> {above}"),
        (at_least is None or value >= at_least, f">= {at_least}"),
        (below is None or value < below, f"< {below}"),
        (at_most is None or value <= at_most, f"<= {at_most}"),
    ]
    named = [
        text
        for (_, text), bound in zip(bounds, (above, at_least, below, at_most), strict=True)
        if bound is not None
    ]
    if value != value or abs(value) == math.inf or not all(holds for holds, _ in bounds):
        allowed = " and ".join(named) or "finite"
        raise ValueError(f"{key} must be {allowed}, got {value}.{' ' + hint if hint else ''}")


def check_path(key: str, path: str) -> None:
    """Raise ValueError if no file system can hold `path`."""
    if not path.strip() or "\0" in path:
        raise ValueError(
            f"{key} must be a path, got {path!r}. Give a folder or a file by its name."
        )
    longest = max((len(os.fsencode(part)) for part in path.split("/")), default=0)
    if longest > NAME_BYTES:
        raise ValueError(
            f"{key} has a name of {longest} bytes in it ({path[:40]}...); file systems allow "
            f"{NAME_BYTES}. Choose a shorter one."
        )


def is_secret_name(name: str) -> bool:
    """Return True if a variable of this name holds a secret: WANDB_API_KEY, PGPASSWORD."""
    words = re.findall("[a-z]+", name.lower()) or [""]
    if words[-1] in NOT_SECRET:
        return False
    return any(word in SECRET_WORDS or word.endswith(SECRET_ENDS) for word in words)


def secret_values() -> dict[str, str]:
    """Return the secrets of this process's environment by the names of their variables."""
    return {
        name: value
        for name, value in os.environ.items()
        if is_secret_name(name) and len(value) >= SECRET_LENGTH
    }


def secret_in(text: str, secrets: Mapping[str, str]) -> str | None:
    """Return the name of the variable whose secret stands in `text`, if there is one."""
    return next((name for name, value in secrets.items() if value in text), None)


def check_day(key: str, value: str) -> None:
    """Raise ValueError if `value` is not a day as YYYY-MM-DD."""
    try:
        date.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"{key} must be a day such as 2026-01-31; got {value!r}.") from error
