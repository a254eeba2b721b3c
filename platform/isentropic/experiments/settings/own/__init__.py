"""A task or objective of a user's own on the command line: what the short form stands for.

task={file: my_task.py, class: MyTask, size: 100}     task=own with file, class_name, settings
objective={file: my_objective.py, name: f, power: 2}  objective=own with file, function_name, settings
task=words                                            the same, if a package offers `words`
"""

from collections.abc import Mapping
from typing import Any

from isentropic.experiments.settings.conf import choices
from isentropic.experiments.settings.errors import quoted
from isentropic.experiments.settings.grammar import read_override
from isentropic.own.packages import GROUPS, offered

CHOICE = "own"
# What names the code in the short form -> its key.
NAMES = {"task": ("class", "class_name"), "objective": ("name", "function_name")}
REWARD = "task.reward."
KEYS = {"task": ("on_long_prompt",), "objective": ("ratio",)}  # all others are settings


def own_choice(argument: str) -> list[str]:
    """Returns the overrides that an argument stands for; others as they are.

    Raises:
        ValueError: the short form lacks the file or the name.
    """
    if argument.startswith(REWARD):
        return [f"++{argument}"]  # the section itself may be null so far
    slot, _, text = argument.partition("=")
    if slot not in GROUPS or text in choices(slot):
        return [argument]
    override = read_override(argument)
    if override is None:
        return [argument]
    value = None if override.is_sweep_override() else override.value()
    key = NAMES[slot][1]
    if isinstance(value, Mapping):
        return _written_out(slot, {str(name): inner for name, inner in value.items()})
    if isinstance(value, str) and value in offered(slot):
        return [f"{slot}={CHOICE}", f"{slot}.{key}={quoted(value)}"]
    return [argument]


def _written_out(slot: str, given: dict[str, Any]) -> list[str]:
    short, key = NAMES[slot]
    if "file" not in given or short not in given:
        raise ValueError(
            f"{slot}={given} must name the file and what is in it: "
            f"'{slot}={{file: my_{slot}.py, {short}: ...}}'."
        )
    overrides = [f"{slot}={CHOICE}", f"{slot}.file={quoted(str(given.pop('file')))}"]
    overrides.append(f"{slot}.{key}={quoted(str(given.pop(short)))}")
    for name, value in given.items():
        place = f"{slot}.{name}" if name in KEYS[slot] else f"++{slot}.settings.{name}"
        overrides.append(f"{place}={_as_typed(value)}")
    return overrides


def _as_typed(value: Any) -> str:
    """Returns a value as the grammar of overrides writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_as_typed(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_typed, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, int | float) else quoted(str(value))
