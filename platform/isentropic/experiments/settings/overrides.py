"""Overrides of a command line or a YAML file: parsed, taken as typed, multiplied, labelled."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from isentropic.checks import check_choice
from isentropic.config import is_under
from isentropic.experiments.settings.annotations import annotation
from isentropic.experiments.settings.conf import CONF, choices, preset_path
from isentropic.experiments.settings.errors import explain, quoted, refuse_expanded, refuse_renamed
from isentropic.experiments.settings.grammar import read_override
from isentropic.experiments.settings.own import own_choice

TEXT = (str, str | None)
TEXTS = (tuple[str, ...],)
QUOTES_OR_CALLS = re.compile(r"['\"(){}\\$]")


def parse(arguments: Sequence[str]) -> list[Override]:
    """Parse Hydra overrides. Raises ValueError if an argument is none, or has an old key."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(arguments))
    except HydraException as error:
        raise ValueError(explain(error, arguments)) from error
    for override in parsed:
        refuse_renamed(override.key_or_group)
    return parsed


def for_hydra(arguments: Sequence[str]) -> list[str]:
    """Return the arguments as Hydra is to read them: text keys have the text that was typed.

    Raises:
        ValueError: a key by its old name, a NUL, a choice that is no name, or braces that the shell
            took. Other errors are left to Hydra; what is no override (its own options) is left
            alone.
    """
    refuse_expanded(arguments)
    arguments = [part for argument in arguments for part in own_choice(argument)]
    for argument in arguments:
        _check(argument)
    return as_typed(arguments)


def refuse_nothing(arguments: Sequence[str], cfg: DictConfig) -> None:
    """Refuse `key={}` for what has entries: Hydra merges mappings, and an empty one changes nothing.

    Raises:
        ValueError: with how each entry is switched off.
    """
    for argument in arguments:
        key, _, value = argument.partition("=")
        if value.replace(" ", "") != "{}":
            continue
        key = key.lstrip("+")
        entries = OmegaConf.select(cfg, key, throw_on_resolution_failure=False)
        # What other arguments put into it is no sign that this one was meant to empty it.
        added = [other.lstrip("+").partition("=")[0] for other in arguments]
        left = [
            name
            for name in (entries if isinstance(entries, DictConfig) else ())
            if not any(is_under(other, (f"{key}.{name}",)) for other in added)
        ]
        if left:
            off = " ".join(f"{key}.{name}=null" for name in left)
            raise ValueError(
                f"{argument} changes nothing: a mapping is merged into the one that is there. To switch "
                f"entries off: {off} (or {key}=null, for what may be null)."
            )


def as_typed(arguments: Sequence[str]) -> list[str]:
    """Put quotes around the values of text keys that Hydra would read as something else.

    run.name=2026_11_25 is the number 20261125 to Hydra, run.name=1e5 is 100000.0, and
    run.label=lr=1e-4 is an error. A key whose annotation is text means the text as it was typed.
    """
    return [_as_typed(argument) for argument in arguments]


def grid(arguments: Sequence[str]) -> list[tuple[str, ...]]:
    """Return all combinations of the values: ['a=1,2', 'b=3'] -> [('a=1', 'b=3'), ('a=2', 'b=3')].

    Raises:
        ValueError: an argument is no override, or a key has no value at all.
    """
    axes = []
    for argument, override in zip(arguments, parse(arguments), strict=True):
        if not override.is_sweep_override():
            axes.append([argument])
            continue
        key = override.get_key_element()
        try:
            axes.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        except HydraException as error:
            raise ValueError(
                f"{argument} does not list its values ({error}). Write them out: {key}=a,b,c"
            ) from error
        if not axes[-1]:
            raise ValueError(f"{argument} gives {key} no value: the grid is empty.")
    return list(itertools.product(*axes))


def labels(settings: Sequence[Sequence[str]]) -> list[str]:
    """Return short names: the overrides in which the settings differ.

    A key is shortened to its last part if that is clear.
    """
    common = (
        set.intersection(*(set(setting) for setting in settings)) if len(settings) > 1 else set()
    )
    names = []
    for setting in settings:
        differing = [override for override in setting if override not in common]
        names.append(", ".join(map(short_override, differing or setting)))
    return names if len(set(names)) == len(names) else [", ".join(setting) for setting in settings]


def short_override(override: str) -> str:
    """Return beta1=0.5 for objective.beta1=0.5."""
    key, _, value = override.partition("=")
    return f"{key.rpartition('.')[2]}={value}"


def named_settings(arguments: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return label -> overrides of the grid that the arguments span."""
    combinations = grid(as_typed(arguments))
    return dict(zip(labels(combinations), combinations, strict=True))


def read_preset(name: str) -> dict[str, Any]:
    """Read conf/sweep/<name>.yaml, or the file at that path, as plain values.

    Raises:
        ValueError: there is no such file, or it is no YAML with keys.
    """
    try:
        path = Path(name) if name.endswith(".yaml") else preset_path("sweep", name)
        there = path.is_file()
    except OSError as error:  # a name of more than 255 bytes
        raise ValueError(f"sweep={name}: no file can have this name ({error.strerror}).") from error
    if path == Path(name) and not there:
        raise ValueError(
            f"sweep={name}: there is no such file. Give a YAML file, or a name from conf/sweep."
        )
    if not there:
        check_choice("sweep", name, choices("sweep"))
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except RecursionError as error:
        raise ValueError(
            f"{path} cannot be read as YAML: it is nested too deep, or holds itself."
        ) from error
    except (OSError, YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as YAML: {reason}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold keys (grid, list or random), got {values!r}.")
    return {str(key): value for key, value in values.items()}


def _check(argument: str) -> None:
    if "\0" in argument:
        raise ValueError(f"the argument {argument!r} has a NUL in it. No text of a config has.")
    override = read_override(argument)
    if override is None:
        return
    refuse_renamed(override.key_or_group)
    if override.is_sweep_override() or override.is_delete():
        return
    value = override.value()
    if not (CONF / override.key_or_group).is_dir():
        return
    names = value if isinstance(value, list) and override.key_or_group == "method" else [value]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"{override.key_or_group} must be chosen by name, got {value!r}. It may be "
            f"{', '.join(choices(override.key_or_group))}."
        )


def overrides_of(part: str, given: Any) -> tuple[str, ...]:
    """Return the overrides that a sweep's YAML lists in one place.

    Raises:
        ValueError: it is no list of texts.
    """
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise ValueError(
            f"the sweep's {part} must be a list of overrides (key=value), got {given!r}."
        )
    return tuple(as_typed(given))


def _as_typed(argument: str) -> str:
    key, separator, value = argument.partition("=")
    if not separator or not _may_differ(value):
        return argument
    hint = annotation(key)
    if hint not in (*TEXT, *TEXTS):
        return argument
    if read_override(f"{key}={value}"):
        return f"{key}={_numbers_quoted(value)}"
    whole = f"{key}={quoted(value)}"
    return whole if hint in TEXT and read_override(whole) else argument


def _numbers_quoted(value: str) -> str:
    """Quote the parts of a value that Hydra takes for a number, true or false."""
    if QUOTES_OR_CALLS.search(value):
        return value
    parts = re.split(r"([\[\],])", value)
    return "".join(quoted(part.strip()) if _is_rewritten(part) else part for part in parts)


def _may_differ(value: str) -> bool:
    """Return False for most values: words to Hydra, and numbers that come back as they are."""
    parts = [part.strip() for part in re.split(r"[\[\],]", value)]
    return any(
        _is_rewritten(part) or not (part == "" or read_override(f"x={part}")) for part in parts
    )


def _is_rewritten(text: str) -> bool:
    """Return True for a number, true or false that would come back in other letters."""
    override = read_override(f"x={text.strip()}")
    value = override and override.value()
    return isinstance(value, bool | int | float) and str(value) != text.strip()
