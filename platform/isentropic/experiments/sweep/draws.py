"""Random points of a sweep, and values as Hydra's command line has them."""

import math
import random
from collections.abc import Mapping
from typing import Any

from isentropic.checks import check_range


def random_of(given: Any) -> dict[str, Any] | None:
    """Check a preset's `random` part. Raises ValueError for what cannot be drawn from."""
    if given is None:
        return None
    keys = given.get("keys") if isinstance(given, Mapping) else None
    if not isinstance(keys, Mapping) or not keys or "count" not in given:
        raise ValueError(
            f"the sweep's random needs count and keys ({{key: [low, high]}}), got {given!r}."
        )
    count = given["count"]
    check_range("random.count", count if isinstance(count, int) else repr(count), at_least=1)
    check_ranges("random.keys", keys)
    return dict(given)


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
            return f"{key}={as_text(rng.choice(bounds['choice']))}"
        low, high = map(float, bounds["log"] if isinstance(bounds, Mapping) else bounds)
        value = (
            math.exp(rng.uniform(math.log(low), math.log(high)))
            if isinstance(bounds, Mapping)
            else rng.uniform(low, high)
        )
        return f"{key}={value:.4g}"

    return [
        tuple(one(key, bounds) for key, bounds in random_part["keys"].items())
        for _ in range(random_part["count"])
    ]


def as_text(value: Any) -> str:
    """Write a YAML value as Hydra's command line has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(as_text, value)) + "]"
    return str(value)
