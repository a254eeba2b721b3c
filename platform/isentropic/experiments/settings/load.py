"""Hydra's dict to a `Config`: every key known, every value typed and in range, before the start."""

import math
import re
import shlex
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, make_dataclass
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from isentropic import config as sections
from isentropic.checks import check_choice, nearest, secret_in, secret_values
from isentropic.config import DATA_KEY, Config, flat, is_under
from isentropic.experiments.settings.checks import check_together
from isentropic.experiments.settings.errors import elsewhere, refuse_renamed, refuse_reward
from isentropic.experiments.settings.presets import PRESET_SECTIONS, method_of, readers
from isentropic.experiments.settings.slots import SLOTS
from isentropic.experiments.settings.today import pin_date
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
    "weights": sections.WeightsConfig,
    "evaluation": sections.EvaluationConfig,
    "checkpoint": sections.CheckpointConfig,
    "tracking": sections.TrackingConfig,
    "accounting": AccountingConfig,
    "alarms": AlarmsConfig,
    "rewards": RewardsConfig,
    "terms": TermsConfig,
}
OWN_REWARD = "my_reward.py"
# What is written in the place of a value that only the user knows.
VALUES = {
    "accounting.ledger": "accounting.ledger.every=25, or accounting.ledger.every=0 for no ledger",
    "model.path": "model.path=<a folder, or owner/name of the Hub>",
    "task.path": (
        "task.path=<a file (.jsonl, .json, .csv, .tsv, .parquet, .arrow), a folder, or owner/name of "
        "the Hub>"
    ),
    "task.class_name": "'task={file: my_task.py, class: MyTask}' names the file and the class in it",
    "task.reward": f"'task.reward={{file: {OWN_REWARD}, function: grade}}'",
    "objective.function_name": (
        "'objective={file: my_objective.py, name: my_function}' names the file and the function in it"
    ),
}
READ = re.compile(r"\$\{([\w.]+)\}")  # a key whose value stands here
MISSING = "???"  # how a YAML says that the user must give a value


def load(cfg: DictConfig) -> Config:
    """Return the typed config of a composed Hydra config (without its `hydra` node).

    Raises:
        ValueError: an unknown or missing key, a wrong type, a value out of range, or values that do
            not go together.
    """
    raw = plain_config(cfg)
    pin_date(cfg, raw)
    keys = flat(raw)
    for section in PRESET_SECTIONS:
        if raw.pop(section, None) is not None:
            _check_read(section, cfg)
    _check_keys("", raw, [field.name for field in fields(Config)])
    values: dict[str, Any] = {"seed": _value("seed", int, raw["seed"])}
    for key, section in SECTIONS.items():
        values[key] = typed(key, section, raw[key])
    for key, entries in SLOTS.items():
        values[key] = _slot(key, entries, raw[key])
    teachers = getattr(values["shaping"], "offline_shape", None)
    values["objective"] = with_shaped_offline(values["objective"], teachers)
    config = Config(**values)
    _check_allowed_changes(config.resume.allow_changes, keys)
    check_together(config)
    return config


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """Return the config as plain values, interpolations resolved.

    Raises:
        ValueError: an interpolation that cannot be resolved, such as one that reads what a method
            sets, without the method; or one that would write a secret into the run folder.
    """
    try:
        values = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        _refuse_without_method(cfg)
        reason = _first_line(error).removeprefix(
            "ValueError raised while resolving interpolation: "
        )
        raise ValueError(f"config: {reason}. Check the ${{...}} in the value.") from error
    secrets = secret_values()
    for key, value in flat(values).items():
        if variable := secret_in(str(value), secrets):
            raise ValueError(
                f"{key} holds the value of the environment variable {variable}, which looks like a "
                "secret. The config is written to the run folder and to the trackers; libraries "
                "find their keys in the environment themselves."
            )
    return values


def typed(key: str, section: type, raw: Any) -> Any:
    """Return `raw` as an instance of the dataclass `section`; `key` is its place in the config."""
    if not isinstance(raw, Mapping):
        example = VALUES.get(key) or f"{key}.{fields(section)[0].name}=..."
        if isinstance(raw, str) and raw.endswith(".py"):
            example = example.replace(OWN_REWARD, raw)
        names = ", ".join(field.name for field in fields(section))
        raise ValueError(
            f"{key} is a section of keys, got the value {_shown(raw)}. It has {names}: {example}"
        )
    optional = [field.name for field in fields(section) if field.default is None]
    _check_keys(f"{key}.", raw, [field.name for field in fields(section)], optional)
    hints = typing.get_type_hints(section)
    return section(
        **{name: _value(f"{key}.{name}", hints[name], value) for name, value in raw.items()}
    )


def _value(key: str, hint: Any, raw: Any) -> Any:
    """Convert one value to its annotation by OmegaConf's rules: '1e-6' is a float, and so is 1."""
    for option in _options(hint):
        if option is ObjectiveConfig:  # the base of another objective, chosen as that one is
            return _slot(key, SLOTS["objective"], raw)
        if is_dataclass(option) and (raw is not None or option is hint):
            return typed(key, option, raw)
    try:
        value = raw if _has_type(hint, raw) else _converted(hint, raw)
    except (OmegaConfBaseException, ValueError) as error:
        as_list = _in_words(hint) == "a list" and isinstance(raw, str)
        advice = f" Write it in brackets: {shlex.quote(f'{key}=[{raw}]')}" if as_list else ""
        raise ValueError(
            f"{key} must be {_in_words(hint)}, got {raw!r} ({type(raw).__name__}).{advice}"
        ) from error
    # OmegaConf lets a list or a section inside a list of single values pass.
    for entry in value if isinstance(value, list) else ():
        if not isinstance(entry, _entries(hint)):
            raise ValueError(
                f"{key} must be a list of single values, got {entry!r} in it "
                f"({type(entry).__name__})."
            )
    for path, number in _numbers(key, value):
        if not math.isfinite(number):
            raise ValueError(
                f"{path} must be a finite number, got {number}. 'No bound' is null, where it is "
                "allowed."
            )
    return tuple(value) if isinstance(value, list) else value


def _has_type(hint: Any, raw: Any) -> bool:
    """Whether OmegaConf would leave a value as it is; asking it takes a hundred times as long."""
    if isinstance(raw, str) and ("${" in raw or raw == MISSING):
        return False
    return type(raw) in (bool, int, float, str, types.NoneType) and type(raw) in _options(hint)


def _converted(hint: Any, raw: Any) -> Any:
    return OmegaConf.to_container(OmegaConf.merge(_field(hint), {"value": raw}))["value"]


@cache
def _field(hint: Any) -> DictConfig:
    """Make OmegaConf's node for one annotation."""
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


def _check_read(section: str, cfg: DictConfig) -> None:
    """Refuse a preset's section that no slot takes its values from: it would do nothing."""
    if f"${{{section}." in OmegaConf.to_yaml(cfg):
        return
    found, method = readers(section), method_of(section)
    slots = [choice.partition("=")[0] for choice in found]
    here = ", ".join(f"{slot}={OmegaConf.select(cfg, f'{slot}.name')}" for slot in slots)
    raise ValueError(
        f"{section}.* would do nothing: no slot reads it. {' and '.join(found)} would; chosen is "
        f"{here}. Choose method={method} and no other {' or '.join(slots)}; or leave out "
        f"method={method} and {section}.*."
    )


def _refuse_without_method(cfg: DictConfig) -> None:
    """Refuse a choice that takes its values from a method that was not chosen."""
    written = flat(OmegaConf.to_container(cfg, resolve=False))
    for section in PRESET_SECTIONS:
        lacking = [
            key
            for key, value in written.items()
            for name in READ.findall(str(value))
            if name.startswith(f"{section}.") and name not in written
        ]
        slot = lacking[0].partition(".")[0] if lacking else ""
        if slot in SLOTS:
            raise ValueError(
                f"{slot}={OmegaConf.select(cfg, f'{slot}.name')} takes its values from "
                f"method={method_of(section)}, which was not chosen. Choose it: "
                f"method={method_of(section)}; it brings {', '.join(readers(section))}."
            )


def _check_keys(
    prefix: str, raw: Mapping[str, Any], allowed: list[str], optional: Sequence[str] = ()
) -> None:
    """Every key of `raw` must be allowed, and every allowed one there, but for the optional."""
    for key in raw:
        if key not in allowed:
            refuse_renamed(f"{prefix}{key}")
            refuse_reward(f"{prefix}{key}", raw.get("name"))
            close = nearest(f"{prefix}{key}", [f"{prefix}{name}" for name in allowed])
            hint = elsewhere(f"{prefix}{key}") or close
            raise ValueError(
                f"unknown config key {f'{prefix}{key}'!r}; allowed here: "
                f"{', '.join(allowed)}.{hint}"
            )
    for key in allowed:
        if key not in raw and key in optional:
            continue
        if key not in raw or raw[key] == MISSING:
            example = VALUES.get(f"{prefix}{key}", f"{prefix}{key}=...")
            raise ValueError(f"{prefix}{key} has no value. Give one: {example}")


def _check_allowed_changes(allowed: Sequence[str], keys: Mapping[str, Any]) -> None:
    """Refuse a misspelled key: it would allow nothing.

    Keys of every choice count: what is allowed to change may be a key that only the recorded choice
        has.
    """
    every = [
        f"{slot}.{field.name}"
        for slot, entries in SLOTS.items()
        for entry in entries.values()
        for field in fields(entry)
    ]
    known = dict.fromkeys([*keys, *every, DATA_KEY])
    for key in allowed:
        if not is_under(key, PRESET_SECTIONS) and not any(
            is_under(other, [key]) for other in known
        ):
            raise ValueError(
                f"resume.allow_changes names {key!r}, which is no config key.{nearest(key, known)} "
                "`--cfg job` shows all keys."
            )


def _numbers(key: str, value: Any) -> Iterator[tuple[str, float]]:
    """Yield all floats inside a value, with the key of each."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(f"{key}.{name}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _numbers(f"{key}[{index}]", inner)
    elif isinstance(value, float):
        yield key, value


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation itself."""
    return (
        typing.get_args(hint)
        if typing.get_origin(hint) in (typing.Union, types.UnionType)
        else (hint,)
    )


def _entries(hint: Any) -> tuple[type, ...]:
    """Return the types that a list of this annotation may hold."""
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

    def word(option: Any) -> str:
        origin, of = typing.get_origin(option), typing.get_args(option)
        values = f", each {words[of[1]]}" if origin is dict and of[1] in words else ""
        return (words.get(option) or words.get(origin) or str(option)) + values

    return " or ".join(map(word, _options(hint)))


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
