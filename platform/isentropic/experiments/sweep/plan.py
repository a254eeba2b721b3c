"""The runs of a sweep: a grid, a list or random draws, all checked before any starts.

Those of a search are suggested as it goes: `search.py`.
"""

import copy
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from isentropic.checks import check_choice
from isentropic.config import Config
from isentropic.experiments.settings.compose import compose_run
from isentropic.experiments.settings.conf import CONF
from isentropic.experiments.settings.errors import quoted
from isentropic.experiments.settings.load import load
from isentropic.experiments.settings.overrides import (
    as_typed,
    grid,
    overrides_of,
    parse,
    short_override,
)
from isentropic.experiments.sweep.draws import as_override, draw, random_of
from isentropic.experiments.sweep.keys import check_once, check_own
from isentropic.experiments.sweep.names import sweep_label
from isentropic.experiments.sweep.suggest import SearchPlan, search_of

PARTS = ("overrides", "grid", "settings", "list", "random", "search")
EARLY_STOP = ("entropy_collapse", "entropy_explosion")


# A setting's name in the preset, if it has one, and its overrides.
Named = tuple[str | None, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What a sweep is made of, before it is composed."""

    common: tuple[str, ...] = ()
    grid: dict[str, tuple[str, ...]] = field(default_factory=dict)  # key -> one override per value
    settings: tuple[Named, ...] = ((None, ()),)  # each with every point of the grid
    random: dict[str, Any] | None = None
    search: SearchPlan | None = None  # then it is all there is, beside what is common

    @property
    def count(self) -> int:
        """Return the number of runs, without making them."""
        if self.search is not None:
            return self.search.count
        draws = 1 if self.random is None else self.random["count"]
        return len(self.settings) * math.prod(len(values) for values in self.grid.values()) * draws

    def points(self) -> list[Named]:
        """Return name of the setting and overrides of each run, those in common left out."""
        draws = [()] if self.random is None else draw(self.random)
        combinations = itertools.product(
            self.settings, itertools.product(*self.grid.values()), draws
        )
        return [
            (
                name and ", ".join([name, *_terms(values), *_terms(drawn)]),
                (*setting, *values, *drawn),
            )
            for (name, setting), values, drawn in combinations
        ]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a sweep."""

    name: str
    overrides: tuple[str, ...]
    digest: str  # of the overrides: what makes it this run, also after a restart
    config: Config
    cfg: DictConfig


def plan_of(preset: Mapping[str, Any], arguments: Sequence[str]) -> SweepPlan:
    """Return a preset with the command line over it: one value replaces, several add an axis.

    Raises:
        ValueError: an unknown part, a grid or a key without values, keys that the sweep sets
            itself, a key in two places.
    """
    for part in preset:
        check_choice("sweep part", part, PARTS)
    arguments = as_typed(arguments)
    common = list(overrides_of("overrides", preset.get("overrides") or []))
    on_line = []
    axes = {
        key: tuple(as_override(key, value) for value in values)
        for key, values in _grid_of(preset).items()
    }
    for argument, override in zip(arguments, parse(arguments), strict=True):
        key = override.get_key_element()
        axes.pop(key, None)
        if override.is_sweep_override():
            axes[key] = tuple(point[0] for point in grid([argument]))
        else:
            on_line.append(argument)
    plan = SweepPlan(
        common=(*common, *on_line),
        grid=axes,
        settings=_settings_of(preset),
        random=random_of(preset.get("random")),
        search=search_of(preset.get("search")),
    )
    _check_plan(plan)
    _check_once(plan, on_line)
    return plan


def _grid_of(preset: Mapping[str, Any]) -> dict[str, list[Any]]:
    given = preset.get("grid") or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"the sweep's grid must be keys with lists of values, got {given!r}.")
    for key, values in given.items():
        if not isinstance(values, list) or not values:
            raise ValueError(
                f"the sweep's grid.{key} must be a list of values, got {values!r}: the grid is "
                "empty."
            )
    return given


def _settings_of(preset: Mapping[str, Any]) -> tuple[Named, ...]:
    """Return the overrides of each setting, with its name if it has one."""
    given = preset.get("settings") or preset.get("list") or [[]]
    if isinstance(given, Mapping):
        return tuple(
            (str(name), overrides_of(f"settings.{name}", item)) for name, item in given.items()
        )
    if not isinstance(given, list):
        raise ValueError(f"the sweep's list must be a list of lists of overrides, got {given!r}.")
    return tuple((None, overrides_of(f"list[{index}]", item)) for index, item in enumerate(given))


def _check_plan(plan: SweepPlan) -> None:
    every = [
        *plan.common,
        *_firsts(plan.grid),
        *itertools.chain(*(overrides for _, overrides in plan.settings)),
    ]
    check_own([*_keys(every), *_drawn(plan)])
    if plan.search is not None:
        _check_search(plan, parse(plan.common))
        return
    if plan.count == 0 or (
        plan.count == 1 and not (plan.grid or plan.random or plan.settings != SweepPlan.settings)
    ):
        raise ValueError(
            "the sweep is empty: no key has several values. Give one, 'objective.beta1=0,0.5,1', "
            "or a preset, sweep=ce_gppo_fig3."
        )


def _check_once(plan: SweepPlan, on_line: Sequence[str]) -> None:
    """Refuse a key that a setting, the grid, the draws and the command line set between them."""
    places = {"the command line": _keys(on_line), "the grid": _keys(_firsts(plan.grid))}
    for name, overrides in plan.settings:
        label = "the list" if name is None else f"the setting {name!r}"
        check_once(places | {label: _keys(overrides), "random.keys": _drawn(plan)})
    check_once({"the overrides": _keys(plan.common), "random.keys": _drawn(plan)})


def _keys(overrides: Sequence[str]) -> list[str]:
    return [override.key_or_group for override in parse(overrides)]


def _drawn(plan: SweepPlan) -> list[str]:
    """Return the keys that are drawn or searched."""
    return [*((plan.random or {}).get("keys", ())), *(plan.search.keys if plan.search else ())]


def _firsts(axes: Mapping[str, Sequence[str]]) -> list[str]:
    return [values[0] for values in axes.values()]


def _check_search(plan: SweepPlan, common: Sequence[Override]) -> None:
    """Refuse a search beside other ways to choose runs, and a key that it varies and a line sets."""
    for override in common:
        if override.key_or_group.startswith("search."):
            raise ValueError(
                f"{override.key_or_group} is set in the sweep's file, not on the command line: copy "
                "conf/sweep/ce_gppo_search.yaml, and name the copy by sweep=<path>."
            )
    beside = {
        "a grid": plan.grid,
        "settings or a list": plan.settings != SweepPlan.settings,
        "random": plan.random,
    }
    for what, given in beside.items():
        if given:
            raise ValueError(
                f"a sweep has either search or {what}. To search over a few values, name them in "
                "search.keys: {choice: [...]}."
            )
    for override in common:
        if override.get_key_element() in plan.search.keys:
            raise ValueError(
                f"{override.get_key_element()} is one of search.keys, and set by "
                f"{override.input_line!r} too. Take it out of one of them."
            )


class Composer:
    """Composes and checks runs of one sweep. Nothing is written."""

    def __init__(self, plan: SweepPlan, folder: Path, *, early_stop: bool) -> None:
        stops = [f"alarms.rules.{rule}.action=stop" for rule in EARLY_STOP] if early_stop else []
        self._common = (*plan.common, *stops)
        self._folder = folder
        self._known: dict[tuple[str, ...], DictConfig] = {}

    def trial(self, own: Sequence[str], label: str | None = None) -> Trial:
        """Compose the run with these overrides. Raises ValueError, with them, if it cannot start."""
        try:
            return _compose(
                (*self._common, *own), label, own or self._common, self._folder, self._known
            )
        except ValueError as error:
            raise ValueError(f"{' '.join(own)}: {error}") from error


def compose_trials(plan: SweepPlan, folder: Path, *, early_stop: bool) -> list[Trial]:
    """Compose and check every run's config. Nothing is written.

    Raises:
        ValueError: the first run that could not start, with its overrides.
    """
    composer = Composer(plan, folder, early_stop=early_stop)
    trials: dict[str, Trial] = {}
    for label, own in plan.points():
        trial = composer.trial(own, label)
        trials.setdefault(trial.digest, trial)
    return list(trials.values())


def _compose(
    overrides: Sequence[str],
    label: str | None,
    own: Sequence[str],
    folder: Path,
    known: dict[tuple[str, ...], DictConfig],
) -> Trial:
    """Compose one run.

    known: configs that are composed already, by what a plain value cannot change in them: their
        choices, mappings and lists, and their keys. Hydra takes a fifth of a second for each.
    """
    digest = hashlib.blake2b("\n".join(overrides).encode(), digest_size=8).hexdigest()
    name = sweep_label(list(own), set(), label)
    ours = {"run.name": name, "run.dir": str(folder / name), "tracking.group": folder.name}
    given = [*overrides, *(f"{key}={quoted(text)}" for key, text in ours.items()), "resume=auto"]
    parsed = parse(given)
    kind = tuple(
        str(item.input_line) if _settles(item) else item.get_key_element() for item in parsed
    )
    if kind not in known:
        known[kind] = compose_run(given)
    cfg = copy.deepcopy(known[kind])
    try:
        for item in parsed:
            if not _is_choice(item):  # as Hydra does it
                OmegaConf.update(cfg, item.key_or_group, item.value(), merge=True)
    except OmegaConfBaseException:
        cfg = compose_run(given)  # says in our words what is wrong
    if label is not None:
        cfg.run.label = label
    config = load(cfg)
    if config.run.dry:
        raise ValueError(
            "run.dry=true is no key of a sweep's runs, which would be trained. dry=true, without "
            "run., checks all runs of a sweep and starts none."
        )
    return Trial(name=name, overrides=tuple(overrides), digest=digest, config=config, cfg=cfg)


def _terms(overrides: Sequence[str]) -> list[str]:
    """Shorten the overrides; a seed is no part of a setting."""
    return [short_override(override) for override in overrides if not override.startswith("seed=")]


def _settles(override: Override) -> bool:
    """Return True for what must be composed anew: `run.preset` is named by it, or Hydra merges it."""
    names = override.key_or_group == "objective.function_name"
    return names or _is_choice(override) or _is_nested(override)


def _is_choice(override: Override) -> bool:
    """Return True for what Hydra settles while it composes: choices, and keys added or removed."""
    plain = override.type == OverrideType.CHANGE and override.package is None
    return not plain or (CONF / override.key_or_group).is_dir()


def _is_nested(override: Override) -> bool:
    """Return True for a mapping or a list: Hydra merges it, so another run's entries would stay."""
    return not override.is_sweep_override() and isinstance(override.value(), dict | list)
