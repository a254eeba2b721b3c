"""Keys that the composed config has not: what is meant, and which choice has it."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_origin

from hydra.errors import HydraException
from omegaconf import OmegaConf

from isentropic.checks import nearest
from isentropic.config import flat, is_under
from isentropic.experiments.settings.annotations import annotation
from isentropic.experiments.settings.conf import CONF, compose_raw, groups, roots
from isentropic.experiments.settings.errors.synonyms import CHOSEN_BY, SYNONYMS
from isentropic.experiments.settings.grammar import read_override
from isentropic.experiments.settings.presets import PRESET_SECTIONS, method_of, preset_values

# Sections whose keys repeat those of others: they are meant only if they are named.
COPIES = ("accounting.counterfactuals", "alarms")
PRESETS = ("method", "experiment", "sweep")  # groups whose files set keys of other sections
BASE = "objective.base."
OVER = "objective@base"  # what sets it in a choice's file
Composed = dict[str, Any]


def unknown_key(key: str, composed: Composed, chosen: Mapping[str, str]) -> str:
    """Return the message for a key that is none.

    Args:
        composed: what the other arguments compose to.
        chosen: group -> its choice there.
    """
    section = key.partition(".")[0]
    if section in PRESET_SECTIONS and section not in composed:
        method = method_of(section)
        return f"unknown config key {key!r}: {section}.* comes with method={method}. Choose that."
    if entry := _new_entry(key, composed):
        return f"{key} adds a name: with a plus, and all its keys in one go, like {entry}"
    if advice := _of_another_choice(key, composed, chosen):
        return f"unknown config key {key!r}: {advice}"
    if key in flat(composed):  # with some of the arguments; not with all of them
        advice = f"Leave it out, or choose the {section} that has it."
        return f"{key} is no key of what the other arguments choose. {advice}"
    valid = list(dict.fromkeys([*groups(), *composed, *flat(composed)]))
    parent, _, name = key.rpartition(".")
    siblings = [
        other.rpartition(".")[2] for other in valid if parent and other.rpartition(".")[0] == parent
    ]
    allowed = f" {parent} has the keys {', '.join(siblings)}." if siblings else ""
    hint = _hint(key, name, valid) or " See `--cfg job` for all keys."
    return f"unknown config key {key!r}.{allowed}{hint}"


def compose_what_composes(arguments: Sequence[str]) -> tuple[Composed, dict[str, str]]:
    """Compose those of the arguments that compose, choices first: what the user could have meant.

    Returns:
        The config as plain values, and group -> choice.
    """
    given = sorted(filter(read_override, arguments), key=lambda item: not _is_choice(item))
    overrides: list[str] = []
    config = compose_raw(with_hydra=True)
    for argument in given:
        try:
            config = compose_raw([*overrides, argument], with_hydra=True)
        except HydraException:
            continue
        overrides.append(argument)
    chosen = dict(config.hydra.runtime.choices)
    composed = OmegaConf.to_container(config, resolve=False)
    del composed["hydra"]
    return composed, chosen


def elsewhere(key: str) -> str:
    """Return " Choose objective=ce_gppo (or gppo), which has it.", or "" if no choice has the key."""
    group, inner, owners = _owners(key)
    return f" Choose {_either(group, owners)}, which has {inner}." if owners else ""


def _is_choice(argument: str) -> bool:
    return (CONF / argument.partition("=")[0].partition("@")[0]).is_dir()


def _of_another_choice(key: str, composed: Composed, chosen: Mapping[str, str]) -> str:
    """Return what is wrong and what to choose if another choice of the key's group has it."""
    group, inner, owners = _owners(key)
    if not owners:
        return ""
    if key.startswith(BASE) and "base" in composed["objective"]:
        return f"objective.base has no {inner}. Choose {_either(group, owners)}."
    if key.startswith(BASE):
        over = [name for name, keys in _choices_with_keys("objective") if OVER in keys]
        return (
            f"objective={chosen['objective']} is over no other objective. Choose "
            f"{_either('objective', over)} and {_either(group, owners)}."
        )
    names = key.split(".")
    for depth in range(2, len(names)):
        parent = ".".join(names[:depth])
        if parent in flat(composed) and flat(composed)[parent] is None:
            whole = _values(group.partition("@")[0], owners[0], ".".join(names[1:depth]))
            return (
                f"{parent} is null, so it has no keys. Give it whole: "
                f"{shlex.quote(f'{parent}={_braces(whole)}')}; or choose "
                f"{_either(group, owners)}."
            )
    choice = chosen.get(group, composed.get(group, {}).get("name"))
    return f"{group}={choice} has no {inner}. Choose {_either(group, owners)}."


def _either(group: str, owners: Sequence[str]) -> str:
    others = f" (or {', '.join(owners[1:])})" if owners[1:] else ""
    return f"{group}={owners[0]}{others}"


def _owners(key: str) -> tuple[str, str, list[str]]:
    """Return the key's group, what the key is inside it, and the choices that have it."""
    group, _, inner = key.partition(".")
    at = group
    if key.startswith(BASE):  # another objective stands there
        inner, at = key.removeprefix(BASE), f"{group}@{BASE.rstrip('.')}"
    if not inner or group not in groups() or group in PRESETS:
        return group, inner, []
    found = {name for name, keys in _choices_with_keys(group) if _is_above_any(inner, keys)}
    first = CHOSEN_BY.get(key, "").partition("=")[2]
    return at, inner, sorted(found, key=lambda name: (name != first, name))


def _is_above_any(inner: str, keys: Sequence[str]) -> bool:
    """Return True if `inner` is one of the keys, or a section of some."""
    return any(is_under(key, [inner]) for key in keys)


def _choices_with_keys(group: str) -> Iterator[tuple[str, list[str]]]:
    for root in roots():
        for path in sorted((root / group).glob("*.yaml")):
            keys = preset_values(path)
            yield path.stem, [key.removeprefix(f"{group}.") for key in keys]


def _values(group: str, choice: str, section: str) -> dict[str, Any]:
    """Return the keys that a choice has in a section."""
    paths = [root / group / f"{choice}.yaml" for root in roots()]
    values = preset_values(next(path for path in paths if path.is_file()))
    values = {key.removeprefix(f"{group}."): value for key, value in values.items()}
    return {
        key.removeprefix(f"{section}."): value
        for key, value in values.items()
        if key.startswith(f"{section}.")
    }


def _new_entry(key: str, composed: Composed) -> str:
    """Return how to add an entry to a section whose names users choose; "" for other keys."""
    names = key.split(".")
    for depth in range(1, len(names) + 1):
        section = ".".join(names[:depth])
        values = OmegaConf.select(OmegaConf.create(composed), section)
        if get_origin(annotation(section)) is not dict or not values:
            continue
        if names[depth : depth + 1] and names[depth] in values:
            return ""
        name = (*names[depth:], "NAME")[0]
        example = next(entry for entry in values.values() if entry is not None)
        return shlex.quote(f"+{section}.{name}={_braces(example)}")
    return ""


def _braces(values: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {_yaml(value)}" for key, value in values.items()) + "}"


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    return f'"{value}"' if isinstance(value, str) and value.isdigit() else str(value)


def _hint(key: str, name: str, valid: Sequence[str]) -> str:
    """Return the key that is meant: by meaning, of the same name elsewhere, or by spelling."""
    copies = [copy for copy in COPIES if copy.rpartition(".")[2] not in key.split(".")]
    valid = [other for other in valid if not is_under(other, copies)]
    meant = SYNONYMS.get(name)
    close = [other for other in valid if other.rpartition(".")[2] == name]
    section = key.partition(".")[0]
    if meant and (section in (name, meant.partition(".")[0]) or not close):
        close = [meant] if section == name else [meant, *close]
    if not close:
        close = _of_other_choices(name)
    if not close:
        return nearest(key, valid)
    named = [repr(other) + _chosen_by(other, valid) for other in close[:3]]
    return f" Did you mean {' or '.join(named)}?"


def _of_other_choices(name: str) -> list[str]:
    """Return the keys of this name that only other choices have, the least deep first."""
    found = [
        f"{group}.{key}"
        for group in groups()
        if group not in (*PRESETS, "model")
        for _, keys in _choices_with_keys(group)
        for key in keys
        if key.rpartition(".")[2] == name
    ]
    own = [key for key in dict.fromkeys(found) if not is_under(key, COPIES)]
    return sorted(own, key=lambda key: key.count("."))


def _chosen_by(key: str, valid: Sequence[str]) -> str:
    """Return " (with terms=kl)" for a key that only another choice has."""
    group, _, owners = _owners(key)
    return f" (with {group}={owners[0]})" if key not in valid and owners else ""
