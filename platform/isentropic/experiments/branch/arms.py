"""Settings of a comparison: overrides on the command line or in conf/sweep, each to the config of a recorded run."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from isentropic.checks import check_choice
from isentropic.config import Config
from isentropic.experiments.hydra_main import CONF
from isentropic.experiments.settings.errors import explain
from isentropic.experiments.settings.keys import is_under
from isentropic.experiments.settings.load import load
from isentropic.experiments.settings.presets import as_names, preset_values

# What another setting may change of a recorded step: all that comes after its rollouts.
AFTER_ROLLOUTS = (
    "objective",
    "terms",
    "reduction",
    "advantage",
    "filter",
    "reweight",
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
    "beta1",
    "beta2",
    "eps",
)
CHANGEABLE = (
    *AFTER_ROLLOUTS,
    *(f"learner.{key}" for key in LEARNER),
    "learner.max_grad_norm",
    "method",
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One arm of a comparison."""

    label: str
    overrides: tuple[str, ...]
    config: Config


def parse(arguments: Sequence[str]) -> list[Override]:
    """Hydra's overrides. Raises ValueError for what is none."""
    try:
        return OverridesParser.create().parse_overrides(list(arguments))
    except HydraException as error:
        raise ValueError(explain(error, CONF, list(arguments))) from error


def grid(arguments: Sequence[str]) -> list[tuple[str, ...]]:
    """All combinations of the values given: ['a=1,2', 'b=3'] -> [('a=1', 'b=3'), ('a=2', 'b=3')].

    Raises:
        ValueError: an argument is no override, or a key has no value at all.
    """
    choices = []
    for argument, override in zip(arguments, parse(arguments), strict=True):
        if not override.is_sweep_override():
            choices.append([argument])
            continue
        key = override.get_key_element()
        choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        if not choices[-1]:
            raise ValueError(f"{argument} gives {key} no value: the grid is empty.")
    return list(itertools.product(*choices))


def labels(settings: Sequence[Sequence[str]]) -> list[str]:
    """Short names: the overrides in which the settings differ, with the last part of each key where that is clear."""
    common = (
        set.intersection(*(set(setting) for setting in settings)) if len(settings) > 1 else set()
    )
    names = []
    for setting in settings:
        own = [override for override in setting if override not in common] or list(setting)
        names.append(", ".join(map(short_override, own)))
    return names if len(set(names)) == len(names) else [", ".join(setting) for setting in settings]


def short_override(override: str) -> str:
    """beta1=0.5 of objective.beta1=0.5."""
    key, _, value = override.partition("=")
    return f"{key.rpartition('.')[2]}={value}"


def settings_of_run(values: Mapping[str, Any], named: Mapping[str, Sequence[str]]) -> list[Setting]:
    """Settings by label, each the recorded config with overrides.

    Raises:
        ValueError: an unknown key or choice, a value out of range, or a key that the recorded rollouts settled.
    """
    return [
        Setting(
            label=label, overrides=tuple(own), config=load(OmegaConf.create(changed(values, own)))
        )
        for label, own in named.items()
    ]


def changed(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A recorded config with overrides: choices of a group bring the group's whole section, keys their value."""
    result = copy.deepcopy(dict(values))
    parsed = parse(overrides)
    groups = [each for each in parsed if _is_group(each)]
    if groups:
        result |= _chosen(groups)
    for each in parsed:
        if each not in groups:
            _set(result, each.key_or_group, each.value())
    return result


def _is_group(override: Override) -> bool:
    return (CONF / override.key_or_group).is_dir() and not isinstance(override.value(), dict)


def _chosen(groups: Sequence[Override]) -> dict[str, Any]:
    """The sections that the chosen groups set, composed by Hydra."""
    arguments = [str(each.input_line) for each in groups]
    sections: set[str] = set()
    for each in groups:
        _check_changeable(each.key_or_group)
        names = as_names(each.value()) if each.key_or_group == "method" else []
        for name in names:
            check_choice(
                "method", name, sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
            )
            sections |= {
                key.partition(".")[0] for key in preset_values(CONF / "method" / f"{name}.yaml")
            }
        if not names:
            sections.add(each.key_or_group)
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            composed = OmegaConf.to_container(
                compose("config", overrides=list(arguments)), resolve=True
            )
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(explain(error, CONF, list(arguments))) from error
    return {name: composed[name] for name in sorted(sections) if name in AFTER_ROLLOUTS}


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key; an unknown one is refused later, by the strict loader, with the nearest name."""
    _check_changeable(key)
    *parents, name = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[name] = value


def _check_changeable(key: str) -> None:
    if not is_under(key, CHANGEABLE):
        raise ValueError(
            f"{key} cannot differ between branches of one state: rollouts and model are those of the "
            f"recorded run. What may differ: {', '.join(AFTER_ROLLOUTS)}, method, learner.<{'|'.join(LEARNER)}>. "
            "Compare whole runs with jobs/sweep.py instead."
        )


def named_settings(arguments: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Label -> overrides, of the grid that the arguments span."""
    combinations = grid(arguments)
    return dict(zip(labels(combinations), combinations, strict=True))


def read_preset(name: str) -> dict[str, Any]:
    """conf/sweep/<name>.yaml, or a file at that path, as plain values. Raises ValueError where there is none."""
    path = Path(name) if name.endswith(".yaml") else CONF / "sweep" / f"{name}.yaml"
    if path == Path(name) and not path.is_file():
        raise ValueError(
            f"sweep={name}: there is no such file. Give a YAML file, or a name from conf/sweep."
        )
    if not path.is_file():
        known = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml"))
        check_choice("sweep", name, known)
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError) as error:
        raise ValueError(
            f"{path} cannot be read as YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold keys (grid, list or random), got {values!r}.")
    return {str(key): value for key, value in values.items()}
