"""Nested config values under one dict of dotted keys."""

from collections.abc import Mapping
from typing import Any


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'objective': {'beta1': 0.5}} -> {'objective.beta1': 0.5}."""
    items: dict[str, Any] = {}
    for name, value in values.items():
        items |= (
            flat(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{name}": value}
        )
    return items


def is_under(key: str, parents: tuple[str, ...]) -> bool:
    """True where `key` is one of `parents`, or stands below one."""
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)
