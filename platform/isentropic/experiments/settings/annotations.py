"""The type that a config key is annotated with, wherever the key lies."""

import types
import typing
from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any

from isentropic.config import Config


def annotation(key: str) -> Any:
    """Return the type of a config key; None if there is none, or not one in all choices."""
    section, *names = key.lstrip("+").split(".")
    hint = typing.get_type_hints(Config).get(section)
    hints = _of_section(section) if hint is Any else {hint}
    for depth, name in enumerate(names, start=1):
        hints = {inner for hint in hints for inner in _inside(hint, name)}
        hints = _named_by_users(section, names[:depth]) or hints
    return hints.pop() if len(hints) == 1 else None


def members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation itself."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _of_section(section: str) -> set[Any]:
    """Return the classes of a section whose type stands beside the code that reads it."""
    # torch: only if such a key asks
    from isentropic.experiments.settings.load import SECTIONS
    from isentropic.experiments.settings.slots import SLOTS

    return {SECTIONS[section]} if section in SECTIONS else set(SLOTS.get(section, {}).values())


def _named_by_users(section: str, names: list[str]) -> set[Any]:
    """Return the class of an entry whose name the user chooses, which the section calls Any."""
    if section != "alarms" or len(names) != 2:
        return set()
    from isentropic.metrics.alarms.rules import AlarmRule

    return {AlarmRule}


def _inside(hint: Any, name: str) -> Iterable[Any]:
    """Yield the types that the key `name` has inside a value of this annotation."""
    for member in members(hint):
        if is_dataclass(member) and name in (hints := typing.get_type_hints(member)):
            yield hints[name]
        elif typing.get_origin(member) is dict:
            yield typing.get_args(member)[1]
