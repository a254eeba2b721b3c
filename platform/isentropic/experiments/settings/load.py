"""Hydra's dict to a `Config`: every key known, every value typed and in range, before anything starts."""

import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, make_dataclass
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from isentropic import config as sections
from isentropic.checks import check_choice, nearest
from isentropic.config import Config
from isentropic.experiments.settings.checks import check_together
from isentropic.experiments.settings.presets import PRESET_SECTIONS
from isentropic.experiments.settings.slots import SLOTS
from isentropic.metrics.accounting import AccountingConfig
from isentropic.metrics.alarms.alarms import AlarmsConfig
from isentropic.objectives import ObjectiveConfig
from isentropic.objectives.over.shaped_offline import with_shaped_offline
from isentropic.objectives.terms import TermsConfig
from isentropic.tasks.grading.rewards import RewardsConfig

SECTIONS: dict[str, type] = {
    "run": sections.RunConfig,
    "resume": sections.ResumeConfig,
    "model": sections.ModelConfig,
    "rollout": sections.RolloutConfig,
    "learner": sections.LearnerConfig,
    "cluster": sections.ClusterConfig,
    "evaluation": sections.EvaluationConfig,
    "checkpoint": sections.CheckpointConfig,
    "tracking": sections.TrackingConfig,
    "accounting": AccountingConfig,
    "alarms": AlarmsConfig,
    "rewards": RewardsConfig,
    "terms": TermsConfig,
}
MISSING = "???"  # how a YAML says that the user must give a value
SECRET = re.compile(r"oc\.env:\s*(\w*(?:KEY|TOKEN|SECRET|PASSWORD)\w*)", re.IGNORECASE)


def load(cfg: DictConfig) -> Config:
    """The typed config of a composed Hydra config (without its `hydra` node).

    Raises:
        ValueError: an unknown or missing key, a wrong type, a value out of range, or values that do not go together.
    """
    raw = plain(cfg)
    for section in PRESET_SECTIONS:
        if raw.pop(section, None) is not None:
            _check_read(section, OmegaConf.to_yaml(cfg))
    _check_keys("", raw, [field.name for field in fields(Config)])
    values: dict[str, Any] = {"seed": _value("seed", int, raw["seed"])}
    for key, section in SECTIONS.items():
        values[key] = typed(key, section, raw[key])
    for key, entries in SLOTS.items():
        values[key] = _slot(key, entries, raw[key])
    teachers = getattr(values["shaping"], "offline_shape", None)
    values["objective"] = with_shaped_offline(values["objective"], teachers)
    config = Config(**values)
    check_together(config)
    return config


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain values, interpolations resolved.

    Raises:
        ValueError: an interpolation that cannot be resolved, or one that would write a secret into the run folder.
    """
    secret = SECRET.search(OmegaConf.to_yaml(cfg))
    if secret:
        raise ValueError(
            f"config: a value reads the environment variable {secret[1]}, which looks like a secret. The config is "
            "written to the run folder and to the trackers; libraries find their keys in the environment themselves."
        )
    try:
        return OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(
            f"config: {_first_line(error)}. Check the ${{...}} in the value."
        ) from error


def typed(key: str, section: type, raw: Any) -> Any:
    """`raw` as an instance of the dataclass `section`; `key` is where it stands in the config."""
    if not isinstance(raw, Mapping):
        raise ValueError(
            f"{key} is a section of keys, got the value {raw!r}. Set one of its keys: {key}.<key>=..."
        )
    optional = [field.name for field in fields(section) if field.default is None]
    _check_keys(f"{key}.", raw, [field.name for field in fields(section)], optional)
    hints = typing.get_type_hints(section)
    return section(
        **{name: _value(f"{key}.{name}", hints[name], value) for name, value in raw.items()}
    )


def _value(key: str, hint: Any, raw: Any) -> Any:
    """One value as its annotation wants it, with OmegaConf's conversions: '1e-6' is a float, and so is 1."""
    for option in _options(hint):
        if option is ObjectiveConfig:  # the base of another objective, chosen as that one is
            return _slot(key, SLOTS["objective"], raw)
        if is_dataclass(option) and raw is not None:
            return typed(key, option, raw)
    try:
        value = OmegaConf.to_container(OmegaConf.merge(_field(hint), {"value": raw}))["value"]
    except (OmegaConfBaseException, ValueError) as error:
        raise ValueError(
            f"{key} must be {_in_words(hint)}, got {raw!r} ({type(raw).__name__})."
        ) from error
    for entry in (
        value if isinstance(value, list) else ()
    ):  # of which OmegaConf lets a list or a section pass
        if not isinstance(entry, _entries(hint)):
            raise ValueError(
                f"{key} must be a list of single values, got {entry!r} in it ({type(entry).__name__})."
            )
    for path, number in _numbers(key, value):
        if not math.isfinite(number):
            raise ValueError(
                f"{path} must be a finite number, got {number}. 'No bound' is null, where it is allowed."
            )
    return tuple(value) if isinstance(value, list) else value


@cache
def _field(hint: Any) -> DictConfig:
    """OmegaConf's node for one annotation."""
    return OmegaConf.structured(make_dataclass("Field", [("value", hint)]))


def _slot(key: str, entries: Mapping[str, type], raw: Any) -> Any:
    if not isinstance(raw, Mapping) or "name" not in raw:
        raise ValueError(
            f"{key} must be chosen from its group: {key}=<{'|'.join(entries)}>; got {raw!r}."
        )
    check_choice(f"{key}.name", raw["name"], entries)
    section = entries[raw["name"]]
    named = any(field.name == "name" for field in fields(section))
    return typed(
        key, section, raw if named else {name: raw[name] for name in raw if name != "name"}
    )


def _check_read(section: str, text: str) -> None:
    """A preset's own section needs a slot that takes its values from it, or setting it would do nothing."""
    if f"${{{section}." not in text:
        raise ValueError(
            f"unknown config key '{section}': no slot reads it. Choose the method that does."
        )


def _check_keys(
    prefix: str, raw: Mapping[str, Any], allowed: list[str], optional: Sequence[str] = ()
) -> None:
    """Every key of `raw` must be allowed, and every allowed one there, but for the optional."""
    for key in raw:
        if key not in allowed:
            hint = nearest(f"{prefix}{key}", [f"{prefix}{name}" for name in allowed])
            raise ValueError(
                f"unknown config key {f'{prefix}{key}'!r}; allowed here: {', '.join(allowed)}.{hint}"
            )
    for key in allowed:
        if key not in raw and key in optional:
            continue
        if key not in raw or raw[key] == MISSING:
            raise ValueError(f"{prefix}{key} has no value. Give one: {prefix}{key}=...")


def _numbers(key: str, value: Any) -> Iterator[tuple[str, float]]:
    """All floats inside a value, with the key of each."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(f"{key}.{name}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _numbers(f"{key}[{index}]", inner)
    elif isinstance(value, float):
        yield key, value


def _options(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation itself."""
    return (
        typing.get_args(hint)
        if typing.get_origin(hint) in (typing.Union, types.UnionType)
        else (hint,)
    )


def _entries(hint: Any) -> tuple[type, ...]:
    """What a list that is annotated so may hold."""
    inner = {typing.get_args(option)[0] for option in _options(hint) if typing.get_args(option)}
    plain = inner & {str, int, float, bool}
    return tuple(plain) if inner and plain == inner else (object,)


def _in_words(hint: Any) -> str:
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "null",
        tuple: "a list",
        list: "a list",
        dict: "a section of keys",
    }
    return " or ".join(
        words.get(option) or words.get(typing.get_origin(option)) or str(option)
        for option in _options(hint)
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
