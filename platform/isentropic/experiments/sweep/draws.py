"""Random points of a sweep, and values as Hydra's command line has them."""

import math
import random
from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.types import Override

from isentropic.checks import check_range, nearest
from isentropic.experiments.settings.annotations import annotation
from isentropic.experiments.settings.errors import quoted
from isentropic.experiments.settings.grammar import read_override
from isentropic.experiments.settings.overrides import TEXT, as_typed

KEYS = ("count", "keys", "seed")  # of `random`


def random_of(given: Any) -> dict[str, Any] | None:
    """Check a preset's `random` part. Raises ValueError for what cannot be drawn from."""
    if given is None:
        return None
    keys = given.get("keys") if isinstance(given, Mapping) else None
    if not isinstance(keys, Mapping) or not keys or "count" not in given:
        raise ValueError(
            f"the sweep's random needs count and keys ({{key: [low, high]}}), got {given!r}."
        )
    for key in given:
        if key not in KEYS:
            raise ValueError(
                f"random.{key} is no key of random.{nearest(str(key), KEYS)} It may have "
                f"{', '.join(KEYS)}."
            )
    check_range("random.count", whole(given["count"]), at_least=1)
    hint = "It is a whole number: a resume draws the same points by it."
    check_range("random.seed", whole(given.get("seed", 0)), at_least=0, hint=hint)
    check_ranges("random.keys", keys)
    return dict(given)


def whole(value: Any) -> Any:
    """Return a whole number as it is, anything else as a text that no range takes."""
    return value if isinstance(value, int) and not isinstance(value, bool) else repr(value)


def check_ranges(part: str, keys: Mapping[str, Any]) -> None:
    """Check what each key may be drawn from. Raises ValueError for what cannot be drawn from."""
    for key, range_ in keys.items():
        bounds = range_.get("log", []) if isinstance(range_, Mapping) else range_
        if (
            isinstance(range_, Mapping)
            and isinstance(range_.get("choice"), list)
            and range_["choice"]
        ):
            continue
        if not _are_bounds(bounds):
            raise ValueError(
                f"{part}.{key} must be [low, high], {{log: [low, high]}} or {{choice: [...]}}, got "
                f"{range_!r}."
            )
        if isinstance(range_, Mapping):
            check_range(f"{part}.{key}.log", bounds[0], above=0)


def _are_bounds(bounds: Any) -> bool:
    return (
        isinstance(bounds, list)
        and len(bounds) == 2
        and all(isinstance(bound, int | float) and math.isfinite(bound) for bound in bounds)
        and bounds[0] < bounds[1]
    )


def draw(random_part: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Draw points: uniform in [low, high], in its logarithm, or one of some choices.

    The same seed gives the same points.
    """
    rng = random.Random(random_part.get("seed", 0))

    def one(key: str, bounds: Any) -> str:
        if isinstance(bounds, Mapping) and "choice" in bounds:
            return as_override(key, rng.choice(bounds["choice"]))
        low, high = map(float, bounds["log"] if isinstance(bounds, Mapping) else bounds)
        value = (
            math.exp(rng.uniform(math.log(low), math.log(high)))
            if isinstance(bounds, Mapping)
            else rng.uniform(low, high)
        )
        return f"{key}={in_short(value, low, high)}"

    return [
        tuple(one(key, bounds) for key, bounds in random_part["keys"].items())
        for _ in range(random_part["count"])
    ]


def in_short(value: float, low: float, high: float) -> str:
    """Return a value in 4 digits, or as many as leave it in its range and tell a hundredth of it apart."""
    for digits in range(4, 17):
        text = f"{value:.{digits}g}"
        if low <= float(text) <= high and abs(float(text) - value) <= (high - low) / 100:
            return text
    return repr(value)


def as_override(key: str, value: Any) -> str:
    """Return the override that gives a key one YAML value; a text key has the text to the letter."""
    if isinstance(value, str) and not _is_itself(_read(value), value) and annotation(key) in TEXT:
        return f"{key}={quoted(value)}"
    return as_typed([f"{key}={as_text(value)}"])[0]


def as_text(value: Any) -> str:
    """Write a YAML value as Hydra's command line has it.

    A text may be in Hydra's words, such as a list of methods; if it cannot be, or would be several
    values, it is itself.
    """
    if isinstance(value, str):
        read = _read(value)
        return quoted(value) if read is None or read.is_sweep_override() else value
    return _as_part(value)


def _as_part(value: Any) -> str:
    """Write a value, a text inside another one always as itself."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_as_part(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_as_part, value)) + "]"
    if not isinstance(value, str):
        return str(value)
    return value if _is_itself(_read(f"[{value}]"), [value]) and ":" not in value else quoted(value)


def _is_itself(read: Override | None, value: Any) -> bool:
    return read is not None and not read.is_sweep_override() and read.value() == value


def _read(text: str) -> Override | None:
    """Return a text as Hydra reads it, as the value of some key; None if it cannot."""
    return read_override(f"key={text}")
