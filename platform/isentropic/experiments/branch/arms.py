"""The arms of a comparison: overrides of a recorded run's config, by name."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from isentropic.checks import check_choice
from isentropic.config import Config, is_under
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.conf import CONF, choices, preset_path
from isentropic.experiments.settings.load import load
from isentropic.experiments.settings.overrides import overrides_of, parse, read_preset
from isentropic.experiments.settings.presets import as_names, preset_values

# What another setting may change of a recorded step: all that comes after its rollouts.
AFTER_ROLLOUTS = (
    "objective",
    "terms",
    "reduction",
    "advantage",
    "filter",
    "reweight",
    "steering",
    "token_weight",
    "shaping",
    "reuse",
)
LEARNER = (
    "lr",
    "lr_schedule",
    "warmup_updates",
    "updates_per_rollout",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_eps",
)
CHANGEABLE = (
    *AFTER_ROLLOUTS,
    *(f"learner.{key}" for key in LEARNER),
    "learner.max_grad_norm",
    "method",
)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One setting of a comparison, on the config of the recorded run."""

    label: str
    overrides: tuple[str, ...]
    config: Config


def settings_of_run(values: Mapping[str, Any], named: Mapping[str, Sequence[str]]) -> list[Arm]:
    """Return the arms by label, each the recorded config with overrides.

    Raises:
        ValueError: an unknown key or choice, a value out of range, or a key that the recorded
            rollouts settled.
    """
    return [
        Arm(
            label=label,
            overrides=tuple(overrides),
            config=load(OmegaConf.create(changed(values, overrides))),
        )
        for label, overrides in named.items()
    ]


def preset_settings(name: str) -> dict[str, tuple[str, ...]]:
    """Return the `settings` of conf/sweep/<name>.yaml: label -> overrides."""
    preset = read_preset(name)
    settings = preset.get("settings")
    if not isinstance(settings, dict) or not settings:
        raise ValueError(
            f"sweep={name} has no settings by name; a grid is given on the command line."
        )
    return {
        str(label): overrides_of(f"settings.{label}", given) for label, given in settings.items()
    }


def changed(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a recorded config with overrides: a choice brings its section, a key its value."""
    result = copy.deepcopy(dict(values))
    parsed = parse(overrides)
    groups = [override for override in parsed if _is_group(override)]
    if groups:
        result |= _chosen(groups)
    for override in parsed:
        if override not in groups:
            _set(result, override.key_or_group, override.value())
    return result


def _is_group(override: Override) -> bool:
    return (CONF / override.key_or_group).is_dir() and not isinstance(override.value(), dict)


def _chosen(groups: Sequence[Override]) -> dict[str, Any]:
    """Compose the sections that the chosen groups set."""
    sections: set[str] = set()
    for override in groups:
        _check_changeable(override.key_or_group)
        names = as_names(override.value()) if override.key_or_group == "method" else []
        for name in names:
            check_choice("method", name, choices("method"))
            values = preset_values(preset_path("method", name))
            sections |= {key.partition(".")[0] for key in values}
        if not names:
            sections.add(override.key_or_group)
    cfg = compose([str(override.input_line) for override in groups])
    composed = OmegaConf.to_container(cfg, resolve=True)
    return {name: composed[name] for name in sorted(sections) if name in AFTER_ROLLOUTS}


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; the loader refuses an unknown one later, with the nearest name."""
    _check_changeable(key)
    *parents, name = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[name] = value


def _check_changeable(key: str) -> None:
    if not is_under(key, CHANGEABLE):
        raise ValueError(
            f"{key} cannot differ between branches of one state: rollouts and model are those of "
            f"the recorded run. What may differ: {', '.join(AFTER_ROLLOUTS)}, method, "
            f"learner.<{'|'.join(LEARNER)}>. Compare whole runs with jobs/sweep.py instead."
        )
