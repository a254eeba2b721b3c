"""Random points of a sweep, and values as Hydra's command line has them."""

import math
import random
from collections.abc import Mapping
from typing import Any

from isentropic.checks import check_range


def random_of(given: Any) -> dict[str, Any] | None:
    """A preset's `random` part, checked. Raises ValueError for what cannot be drawn from."""
    if given is None:
        return None
    if not isinstance(given, Mapping) or not {"count", "keys"} <= set(given) or not given["keys"]:
        raise ValueError(
            f"the sweep's random needs count and keys ({{key: [low, high]}}), got {given!r}."
        )
    check_range("random.count", given["count"], at_least=1)
    for key, about in given["keys"].items():
        bounds = about.get("log", []) if isinstance(about, Mapping) else about
        if isinstance(about, Mapping) and about.get("choice"):
            continue
        if not isinstance(bounds, list) or len(bounds) != 2 or not bounds[0] < bounds[1]:
            raise ValueError(
                f"random.keys.{key} must be [low, high], {{log: [low, high]}} or {{choice: [...]}}."
            )
        if isinstance(about, Mapping):
            check_range(f"random.keys.{key}.log", bounds[0], above=0)
    return dict(given)


def draw(about: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Random points: uniform in [low, high], in its logarithm, or one of some choices; equal seed, equal points."""
    rng = random.Random(about.get("seed", 0))

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
        tuple(one(key, bounds) for key, bounds in about["keys"].items())
        for _ in range(about["count"])
    ]


def as_text(value: Any) -> str:
    """A YAML value as Hydra's command line has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(as_text, value)) + "]"
    return str(value)
