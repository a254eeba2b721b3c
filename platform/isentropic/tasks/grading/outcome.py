"""What a check gives: a reward, perhaps of named parts, or the kind of its error and the reason."""

import math
import re
from collections.abc import Mapping
from typing import Any

TIMED_OUT = "timed_out"
CRASHED = "crashed"
RAISED = "raised"
NOT_FINITE = "not_finite"
KINDS = (TIMED_OUT, CRASHED, RAISED, NOT_FINITE)
REASON = 400  # characters kept of a reason
MOST_PARTS = 64
PART = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")  # names a metric
# A larger reward drowns the others of its group, and overflows where advantages are float32.
LARGEST = 1e6

Outcome = float | str  # a reward, or the kind of its error


class Paid(float):
    """A reward that was made of named parts."""

    parts: Mapping[str, float]

    def __new__(cls, reward: float, parts: Mapping[str, float]) -> "Paid":
        paid = super().__new__(cls, reward)
        paid.parts = dict(parts)
        return paid

    def __getnewargs__(self) -> tuple[float, Mapping[str, float]]:
        return float(self), self.parts


class Unchecked(float):
    """What is paid for an answer whose check hung, crashed or gave no finite number."""


class Failed(str):
    """The kind of an error, and what was wrong: for a user's own code with file and line."""

    reason: str

    def __new__(cls, kind: str, reason: str) -> "Failed":
        failed = super().__new__(cls, kind)
        failed.reason = reason[:REASON]
        return failed

    def __getnewargs__(self) -> tuple[str, str]:
        return str(self), self.reason


def parts_of(outcome: Outcome) -> Mapping[str, float]:
    """Returns the named parts of a reward; none of one that is a plain number."""
    return getattr(outcome, "parts", {})


def reason_of(outcome: Outcome) -> str:
    """Returns what was wrong, as one printable line; "" if nothing says it."""
    # An answer may have written into it: no control character reaches the terminal.
    text = "".join(x if x.isprintable() else " " for x in getattr(outcome, "reason", ""))
    return " ".join(text.split())


def as_json(outcome: Outcome) -> Any:
    """Returns what a worker writes of an outcome."""
    if parts := parts_of(outcome):
        return {"reward": float(outcome), "parts": dict(parts)}
    if reason := getattr(outcome, "reason", ""):
        return {"error": str(outcome), "reason": reason}
    return outcome


def from_json(value: object) -> Outcome:
    """Returns what a worker wrote as an outcome; raises ValueError for anything else."""
    if isinstance(value, dict):
        if value.keys() == {"reward", "parts"} and isinstance(value["parts"], dict):
            return _paid(value["reward"], value["parts"])
        if value.keys() == {"error", "reason"} and isinstance(value["reason"], str):
            kind = from_json(value["error"])
            if isinstance(kind, str):
                return Failed(kind, value["reason"])
        raise ValueError
    if value in (RAISED, NOT_FINITE):
        return str(value)
    number = _number(value)
    return number if is_payable(number) else NOT_FINITE


def is_payable(number: float) -> bool:
    """Returns whether a number can be a reward: finite, and not beyond LARGEST."""
    return abs(number) <= LARGEST  # not so of NaN


def _paid(reward: object, parts: dict[Any, object]) -> Outcome:
    # The worker checked the names too, but an answer may have written this.
    if len(parts) > MOST_PARTS or not all(PART.fullmatch(str(name)) for name in parts):
        raise ValueError
    numbers = {name: _number(value) for name, value in parts.items()}
    total = _number(reward)
    return Paid(total, numbers) if all(map(is_payable, [total, *numbers.values()])) else NOT_FINITE


def _number(value: object) -> float:
    if type(value) not in (int, float):
        raise ValueError
    try:
        return float(value)
    except OverflowError:  # an integer that no float holds
        return math.inf
