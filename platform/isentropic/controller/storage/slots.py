"""Which slots can go on from the state that a checkpoint has of them."""

from collections.abc import Mapping
from typing import Any

from isentropic.config import Config, with_current_keys

STATEFUL = ("reweight", "reuse", "steering")


def anew(recorded: Mapping[str, Any], config: Config) -> list[str]:
    """Returns the slots that begin anew, because what they had before was another's.

    Args:
        recorded: the config that the checkpoint was made with, as plain values; a section that it
            lacks counts as unchanged.
    """
    recorded = with_current_keys(recorded) if recorded else {}
    changed = []
    for slot in STATEFUL:
        before, today = recorded.get(slot), getattr(config, slot)
        if isinstance(before, Mapping) and (
            before.get("name") != today.name or _actuators(before) != _actuators(vars(today))
        ):
            changed.append(slot)
    return changed


def _actuators(slot: Mapping[str, Any]) -> set[str]:
    """The coefficients that a controller steers: its state has a value of each."""
    values = slot.get("actuators") or {}
    return {name for name, bounds in values.items() if bounds is not None}
