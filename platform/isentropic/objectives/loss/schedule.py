"""Coefficients that change over the steps of a run, given in place in the config.

    objective.beta1: 0.5                                                      constant
    objective.beta1: {kind: switch, step: 585, before: 0.0, after: 0.5}       Fig. 6 of CE-GPPO
    objective.beta1: {kind: linear, from_step: 1, to_step: 100, start: 1.0, end: 0.5}
    objective.beta1: {kind: cosine, from_step: 1, to_step: 100, start: 1.0, end: 0.5}

Steps count from 1. A switch has `after` from its step on. The other two keep `start` up to
`from_step` and `end` from `to_step` on.
"""

import math
from collections.abc import Mapping
from typing import Any

from isentropic.checks import check_choice, check_range

RAMP = ("from_step", "to_step", "start", "end")
KINDS: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "switch": ("step", "before", "after"),
    "linear": RAMP,
    "cosine": RAMP,
}
STEPS = ("step", "from_step", "to_step")


def resolve(coefficient: Any, step: int) -> float | None:
    """Give the value of a checked coefficient (number, None or schedule) at `step`, from 1."""
    if not isinstance(coefficient, Mapping):
        return coefficient
    kind = coefficient["kind"]
    if kind == "constant":
        return coefficient["value"]
    if kind == "switch":
        return coefficient["before"] if step < coefficient["step"] else coefficient["after"]
    first, last, start, end = (coefficient[key] for key in RAMP)
    if step <= first or step >= last:
        return start if step <= first else end
    done = (step - first) / (last - first)
    if kind == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return start + (end - start) * done


def check_coefficient(
    key: str, coefficient: Any, *, optional: bool = False, **bounds: float | str
) -> None:
    """Check that every value of `coefficient` is a number inside `bounds` (of `check_range`).

    Args:
        key: its name in the config, for the message.
        optional: None is allowed too.

    Raises:
        ValueError: naming the key, the value and what is allowed.
    """
    for name, value in _values(key, coefficient):
        if value is None and optional:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            numbers = "a number, null" if optional else "a number"
            kinds = " | ".join(KINDS)
            raise ValueError(
                f"{name} must be {numbers} or a schedule {{kind: {kinds}, ...}}; got {value!r}."
            )
        check_range(name, value, **bounds)


def lowest(coefficient: Any) -> float:
    """Return the lowest value that a coefficient takes, once `check_coefficient` has passed it."""
    return min(value for _, value in _values("", coefficient))


def _values(key: str, coefficient: Any) -> list[tuple[str, Any]]:
    """List (name, value) of all values a coefficient can take; a ramp stays between its ends."""
    if not isinstance(coefficient, Mapping):
        return [(key, coefficient)]
    check_choice(f"{key}.kind", coefficient.get("kind"), KINDS)
    keys = KINDS[coefficient["kind"]]
    if set(coefficient) != {"kind", *keys}:
        raise ValueError(
            f"{key}: a {coefficient['kind']} schedule has the keys kind, {', '.join(keys)}; "
            f"got {', '.join(map(str, coefficient))}."
        )
    for name in keys:
        if name in STEPS and (
            isinstance(coefficient[name], bool) or not isinstance(coefficient[name], int)
        ):
            raise ValueError(
                f"{key}.{name} must be a step (a whole number from 1), got {coefficient[name]!r}."
            )
        if name in STEPS:
            check_range(f"{key}.{name}", coefficient[name], at_least=1)
    values = [(f"{key}.{name}", coefficient[name]) for name in keys if name not in STEPS]
    if keys is RAMP:
        check_range(f"{key}.to_step", coefficient["to_step"], above=coefficient["from_step"])
        for name, value in values:
            if value is None:
                raise ValueError(
                    f"{name} must be a number: there is no way between null and a number. "
                    "Use a switch."
                )
    return values
