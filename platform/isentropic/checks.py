"""Checks of what a user gave. Each error says what is wrong, the value, what is allowed, and what to do."""

import difflib
import math
from collections.abc import Iterable
from datetime import date
from numbers import Real


def nearest(name: str, allowed: Iterable[str]) -> str:
    """' Did you mean 'x'?' for the closest allowed name, or nothing."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def check_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    """`value` must be one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(
            f"{key} must be one of {', '.join(allowed)}; got {value!r}.{nearest(str(value), allowed)}"
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
    """`value` must be a finite number inside the named bounds."""
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
        wanted = " and ".join(named) or "finite"
        raise ValueError(f"{key} must be {wanted}, got {value}.{' ' + hint if hint else ''}")


def check_day(key: str, value: str) -> None:
    """`value` must be a day as YYYY-MM-DD."""
    try:
        date.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"{key} must be a day such as 2026-01-31; got {value!r}.") from error
