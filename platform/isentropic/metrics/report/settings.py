"""Several runs as settings: runs that differ in nothing but their seed are one setting."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np

from isentropic.config import COMPUTES_NOTHING, flat, is_under
from isentropic.metrics.report.reading import words
from isentropic.metrics.report.run_data import RunData

# Keys that compute nothing, or that are repeated and not swept; but for the length of a run.
NOT_A_SETTING = (*COMPUTES_NOTHING, "seed", "run", "resume", "checkpoint")
LENGTH = "run.steps"
# Neighbours in time that are averaged into one point of an error: what ties them does not count twice.
BLOCK = 5
FIRST = (
    "objective.name",
    "objective.beta1",
    "objective.beta2",
    "objective.clip_low",
    "objective.clip_high",
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Runs of one setting, in the order of their seeds."""

    label: str
    values: dict[str, Any]  # of the keys that differ between settings
    runs: tuple[RunData, ...]

    def mean(self, key: str, kind: str) -> "Mean":
        """Averages over the runs the 'last', 'best' (largest) or 'average' value of a metric."""
        return mean_of(
            [value for run in self.runs if (value := summary(run, key, kind)) is not None]
        )


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Mean, standard error (NaN for a single value) and count."""

    value: float
    error: float
    count: int


def mean_of(values: Sequence[float]) -> Mean:
    """Averages; the standard error is the standard deviation (over n - 1) / sqrt(n)."""
    if not values:
        return Mean(value=math.nan, error=math.nan, count=0)
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Mean(value=fmean(values), error=error, count=len(values))


def in_blocks(series: Iterable[Sequence[float]]) -> Mean:
    """Averages values; the error is that of blocks of `BLOCK` neighbours or a few more.

    Args:
        series: values in the order of time, of each run.
    """
    series = [values for values in series if values]
    blocks = [
        fmean(block)
        for values in series
        for block in np.array_split(values, max(1, len(values) // BLOCK))
    ]
    # Blocks differ in size by one, so that their mean is not quite that of the values.
    return replace(
        mean_of([value for values in series for value in values]), error=mean_of(blocks).error
    )


def summary(run: RunData, key: str, kind: str, *, until: float = math.inf) -> float | None:
    """Returns one number of a curve, None if it is empty. Held-out scores take line 0 along.

    until: the last step that counts.
    """
    curve = run.curve(key, start=key.startswith("eval/"))
    values = [value for _, step, value in curve if step <= until]
    if not values:
        return None
    return {"last": values[-1], "best": max(values), "average": fmean(values)}[kind]


def group_settings(runs: Sequence[RunData]) -> list[Setting]:
    """Groups runs by setting, in a natural order (numbers by size).

    The labels are those given (`run.label`) if they tell all settings apart; else each names the
    fewest keys that do.
    """
    configs = _computed(runs)
    keys = differing_keys(runs)
    telling = _telling_keys(configs, keys)
    members: dict[tuple[str, ...], list[int]] = {}
    for index, config in enumerate(configs):
        members.setdefault(tuple(same(config.get(key)) for key in keys), []).append(index)
    settings = []
    for indices in members.values():
        values = {key: configs[indices[0]].get(key) for key in keys}
        members_by_seed = sorted(
            (runs[index] for index in indices),
            key=lambda run: (order_of(run.setting("seed") or 0), run.name),
        )
        # A key that is null is named, a key that the config lacks is not.
        terms = [_term(key, values[key], telling) for key in telling if key in configs[indices[0]]]
        label = ", ".join(terms) or _name(members_by_seed)
        settings.append(Setting(label=label, values=values, runs=tuple(members_by_seed)))
    settings = _with_labels(settings, lambda run: run.setting("run.label"))
    if len(settings) > 1 and not any(run.setting("run.label") for run in runs):
        settings = _with_labels(settings, lambda run: run.method)
    return sorted(settings, key=lambda setting: [order_of(setting.values[key]) for key in telling])


def _name(runs: Sequence[RunData]) -> str:
    return runs[0].name if len(runs) == 1 else f"{len(runs)} seeds"


def _with_labels(settings: Sequence[Setting], of: Callable[[RunData], Any]) -> list[Setting]:
    """Returns the settings under the labels of their runs, if these tell all settings apart."""
    labels = []
    for setting in settings:
        given = [of(run) for run in setting.runs]
        if not isinstance(given[0], str) or not given[0] or given != given[:1] * len(given):
            return list(settings)
        labels.append(given[0])
    twice = {label for label in labels if labels.count(label) > 1}
    labels = [
        f"{label}, steps={short(setting.values.get(LENGTH))}" if label in twice else label
        for setting, label in zip(settings, labels, strict=True)
    ]
    if len(set(labels)) < len(labels):
        return list(settings)
    return [replace(setting, label=label) for setting, label in zip(settings, labels, strict=True)]


def differing_keys(runs: Sequence[RunData]) -> list[str]:
    """Returns the dotted config keys that differ, but for those that only name or seed a run."""
    configs = _computed(runs)
    every = {key: None for config in configs for key in config}
    keys = [key for key in every if len({same(config.get(key)) for config in configs}) > 1]
    return sorted(keys, key=lambda key: (FIRST.index(key) if key in FIRST else len(FIRST), key))


def swept_axes(settings: Sequence[Setting]) -> tuple[str, str] | None:
    """Returns the two coefficients to lay a map over, None without them.

    They are the first two keys with numbers that vary one without the other.
    """
    keys = [key for key in settings[0].values if _is_axis(settings, key)] if settings else []
    for index, first in enumerate(keys):
        for second in keys[index + 1 :]:
            pairs = {
                (same(setting.values[first]), same(setting.values[second])) for setting in settings
            }
            sizes = [len({pair[side] for pair in pairs}) for side in (0, 1)]
            if len(pairs) > max(sizes):
                return first, second
    return None


def paired(setting: Setting, base: Setting, key: str, kind: str) -> Mean:
    """Averages the differences setting - base between runs of the same seed.

    Both count up to the last step that both have: a run that ended early is compared as it was. A
    seed that several runs of a setting have is left out: which of them is the pair is not known.
    """
    own, of_base = by_seed(setting.runs), by_seed(base.runs)
    pairs = [(run, of_base[seed]) for seed, run in own.items() if seed in of_base]
    numbers = [
        [summary(run, key, kind, until=min(each.last_step for each in pair)) for run in pair]
        for pair in pairs
    ]
    return mean_of([own - other for own, other in numbers if own is not None and other is not None])


def by_seed(runs: Sequence[RunData]) -> dict[str, RunData]:
    """Returns runs by what `same` says of their seed, without seeds that several have."""
    seeds = [same(run.setting("seed")) for run in runs]
    return {seed: run for seed, run in zip(seeds, runs, strict=True) if seeds.count(seed) == 1}


def same(value: Any) -> str:
    """Returns a text that is the same for equal values: 1 and 1.0 are, however they were typed."""
    if isinstance(value, float) and value.is_integer():
        return repr(int(value))
    return f"[{', '.join(map(same, value))}]" if isinstance(value, list) else repr(value)


def short(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else words(value)


def _computed(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Returns the values of each run's keys; what a slot has from the run's folder or seed is no choice."""
    configs = [
        {
            key: _without_folder(value, run.setting("run.dir"))
            for key, value in flat(run.config).items()
            if key == LENGTH or not is_under(key, NOT_A_SETTING)
        }
        for run in runs
    ]
    for key in {key for config in configs for key in config if key.endswith(".seed")}:
        of_slot: dict[str, list[int]] = {}
        for index, config in enumerate(configs):
            if key in config:
                name = config.get(f"{key.removesuffix('.seed')}.name")
                of_slot.setdefault(repr(name), []).append(index)
        for indices in of_slot.values():
            seeds = [runs[index].setting("seed") for index in indices]
            if [configs[index][key] for index in indices] == seeds:
                for index in indices:
                    del configs[index][key]
    return configs


def _without_folder(value: Any, folder: Any) -> Any:
    inside = isinstance(value, str) and isinstance(folder, str) and value.startswith(f"{folder}/")
    return "${run.dir}" + value.removeprefix(folder) if inside else value


def _telling_keys(configs: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[str]:
    """Picks few keys that tell all configs apart.

    Greedy: a key is taken if it splits what the keys before it left together, and given up again if
    the others do without it.
    """

    def parts(chosen: Sequence[str]) -> int:
        return len({tuple(same(config.get(key)) for key in chosen) for config in configs})

    chosen: list[str] = []
    for key in keys:
        if parts([*chosen, key]) > parts(chosen):
            chosen.append(key)
    for key in reversed(chosen):
        rest = [other for other in chosen if other != key]
        if rest and parts(rest) == parts(chosen):
            chosen = rest
    return chosen


def _term(key: str, value: Any, keys: Sequence[str]) -> str:
    last = key.rpartition(".")[2]
    if key == "objective.name":
        return words(value)
    is_unique = sum(other.rpartition(".")[2] == last for other in keys) == 1
    return f"{last if is_unique else key}={short(value)}"


def order_of(value: Any) -> tuple[int, float, str]:
    """Sorts None first, then numbers by size, then words."""
    if isinstance(value, int | float):
        return (1, value, "")
    return (0, 0.0, "") if value is None else (2, 0.0, words(value))


def _is_axis(settings: Sequence[Setting], key: str) -> bool:
    """Tells whether a key takes several numbers, and nothing but numbers and null."""
    values = [setting.values[key] for setting in settings if setting.values[key] is not None]
    are_numbers = all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    return are_numbers and len(set(values)) > 1
