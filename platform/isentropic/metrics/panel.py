"""The objectives of the counterfactual panel, from the config."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from isentropic.checks import check_choice, nearest
from isentropic.objectives import OBJECTIVES, ObjectiveConfig


def build_counterfactuals(panel: Mapping[str, Mapping[str, Any]]) -> dict[str, ObjectiveConfig]:
    """Build label -> objective config from `accounting.counterfactuals`; every key is checked."""
    return {label: _build(label, values) for label, values in panel.items() if values is not None}


def _build(label: str, values: Mapping[str, Any]) -> ObjectiveConfig:
    key = f"accounting.counterfactuals.{label}"
    check_choice(f"{key}.name", values.get("name"), OBJECTIVES)
    config = OBJECTIVES[values["name"]]
    known = [field.name for field in fields(config)]
    for name in values:
        if name not in known:
            raise ValueError(
                f"{key}.{name} is no key of {values['name']}.{nearest(name, known)} "
                f"Allowed: {known}."
            )
    missing = [name for name in known if name not in values]
    if missing:
        raise ValueError(
            f"{key} lacks {', '.join(missing)}: an objective of a panel is given in full, "
            "like a preset."
        )
    base = {"base": _build(f"{label}.base", values["base"])} if "base" in known else {}
    try:
        return config(**{**values, **base})
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
