"""The arms of a comparison: overrides of a recorded run's config, by name."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from isentropic.checks import check_choice
from isentropic.config import Config, is_under
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.conf import CONF, choices, preset_path
from isentropic.experiments.settings.load import load
from isentropic.experiments.settings.overrides import overrides_of, parse, read_preset
from isentropic.experiments.settings.own import own_choice
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
    parsed = parse([part for override in overrides for part in own_choice(override)])
    values_of = [_one_value(override) for override in parsed]
    groups = [override for override in parsed if _is_group(override)]
    if groups:
        result |= _chosen(groups, values)
    for override, value in zip(parsed, values_of, strict=True):
        if override not in groups:
            _set(result, override.key_or_group, value)
    return result


def _is_group(override: Override) -> bool:
    return (CONF / override.key_or_group).is_dir() and not isinstance(override.value(), dict)


def _chosen(groups: Sequence[Override], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Compose the sections that the chosen groups set.

    What they take from elsewhere, such as the length of responses, is the recorded run's.
    """
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
    composed = OmegaConf.to_container(cfg, resolve=False)
    # Beside the slots, a method's own values (papo, oger, uec), which its slots refer to.
    own = {name for name in sections if name in AFTER_ROLLOUTS or not (CONF / name).is_dir()}
    try:
        resolved = OmegaConf.to_container(
            OmegaConf.create({**recorded, **{name: composed[name] for name in own}}), resolve=True
        )
    except OmegaConfBaseException as error:
        chosen = " ".join(str(override.input_line) for override in groups)
        raise ValueError(
            f"{chosen} cannot be chosen on this recorded run: {str(error).splitlines()[0]}. A slot that "
            "refers to a method's own values needs that method: method=<name>."
        ) from error
    return {name: resolved[name] for name in sorted(own) if name in AFTER_ROLLOUTS}


def _one_value(override: Override) -> Any:
    if override.is_sweep_override():
        raise ValueError(
            f"{override.input_line} are several values, and an arm has one of each key. Several arms are "
            "for jobs/branch.py."
        )
    return override.value()


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; the loader refuses an unknown one later, with the nearest name."""
    _check_changeable(key)
    *parents, name = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ValueError(
                f"{key}={value}: {parent} is {values!r} in the recorded run, which has no parts. Give the "
                f"whole of it: {'.'.join(parents)}={{...}}"
            )
    values[name] = value


def _check_changeable(key: str) -> None:
    if not is_under(key, CHANGEABLE):
        raise ValueError(
            f"{key} cannot differ between branches of one state: rollouts and model are those of "
            f"the recorded run. What may differ: {', '.join(AFTER_ROLLOUTS)}, method, "
            f"learner.<{'|'.join(LEARNER)}>. Compare whole runs with jobs/sweep.py instead."
        )
