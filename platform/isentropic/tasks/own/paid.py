"""What a user's function may return as a reward: a number, or named parts, within bounds."""

import math
from collections.abc import Mapping
from typing import Any

from isentropic.own.code import OwnError
from isentropic.tasks.grading.outcome import (
    LARGEST,
    MOST_PARTS,
    NOT_FINITE,
    PART,
    Paid,
    is_payable,
)


def as_reward(
    value: Any, place: str, name: str, weights: Mapping[str, float] | None = None
) -> float:
    """Returns what a user's function returned as a reward; the weighted sum of parts.

    Args:
        place, name: of the function, for the error.
        weights: of the parts; None: each counts 1.

    Raises:
        OwnError: it is no finite number, and no dict of them with the names of the weights.
    """
    if not isinstance(value, Mapping):
        return _number(value, place, name)
    parts = {str(part): _number(inner, place, name) for part, inner in value.items()}
    weights = dict.fromkeys(parts, 1.0) if weights is None else weights
    if bad := [part for part in parts if not PART.fullmatch(part)]:
        raise OwnError(
            place,
            f"{name} returned a part named {short(bad[0])}; a name is of letters, digits and _, "
            "as in reward/<name>_mean",
        )
    if weights.keys() != parts.keys() or not 0 < len(parts) <= MOST_PARTS:
        raise OwnError(
            place,
            f"{name} returned the parts {', '.join(parts) or 'none'}; task.reward.weights has "
            f"{', '.join(weights) or 'none'}: they must be the same, at most {MOST_PARTS}",
        )
    total = sum(weights[part] * inner for part, inner in parts.items())
    if not is_payable(total):
        text = f"{name} returned parts whose weighted sum is {total:g}{_too_large(total)}"
        raise OwnError(place, text, NOT_FINITE)
    return Paid(total, parts)


def _number(value: Any, place: str, name: str) -> float:
    try:
        # float("1.0") is a number too, but a text is no reward: something else was meant.
        number = None if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError):
        number = None
    except OverflowError:  # an integer that no float holds
        number = math.inf
    if number is None:
        text = f"{name} returned {short(value)}; a reward is a number, or a dict of them"
        raise OwnError(place, text)
    if not is_payable(number):
        text = f"{name} returned {number:g}{_too_large(number)}"
        raise OwnError(place, text, NOT_FINITE)
    return number


def _too_large(number: float) -> str:
    if not math.isfinite(number):
        return ""
    return f"; a reward lies within ±{LARGEST:.0f}, a larger one drowns the others of its group"


def short(value: Any) -> str:
    """Returns a value as it is shown in an error."""
    try:
        text = repr(value)
    except Exception:  # of the value's own code: what was returned is the news, not this
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 60 else f"{text[:57]}..."
