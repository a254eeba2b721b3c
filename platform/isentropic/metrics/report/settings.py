"""Several runs as settings: runs that differ in nothing but their seed are one setting."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from isentropic.config import flat
from isentropic.metrics.report.run_data import RunData

# Keys that say nothing about what is computed, or that are not swept but repeated.
NOT_A_SETTING = ("seed", "run", "resume", "tracking", "cluster", "checkpoint")
FIRST = (
    "objective.name",
    "objective.beta1",
    "objective.beta2",
    "objective.clip_low",
    "objective.clip_high",
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Runs of one setting, in the order of their seeds. `values` are those of the keys that differ between settings."""

    label: str
    values: dict[str, Any]
    runs: tuple[RunData, ...]

    def mean(self, key: str, kind: str) -> "Mean":
        """Over the runs: 'last', 'best' (largest) or 'average' (over the steps) of a metric."""
        return mean_of(
            [value for run in self.runs if (value := summary(run, key, kind)) is not None]
        )


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Mean, standard error (NaN for one value alone) and count."""

    value: float
    error: float
    count: int


def mean_of(values: Sequence[float]) -> Mean:
    """se = standard deviation (n - 1) / sqrt(n)."""
    if not values:
        return Mean(value=math.nan, error=math.nan, count=0)
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Mean(value=fmean(values), error=error, count=len(values))


def summary(run: RunData, key: str, kind: str) -> float | None:
    """One number of a curve; None where the run has none. Held-out scores take line 0 along."""
    values = run.values(key, start=key.startswith("eval/"))
    if not values:
        return None
    return {"last": values[-1], "best": max(values), "average": fmean(values)}[kind]


def group_settings(runs: Sequence[RunData]) -> list[Setting]:
    """Settings in a natural order (numbers by size); labels are those given (`run.label`) where that tells all apart.

    Else a label names the fewest keys that do.
    """
    configs = [_computed(run) for run in runs]
    keys = differing_keys(runs)
    telling = _telling_keys(configs, keys)
    members: dict[tuple[str, ...], list[int]] = {}
    for index, config in enumerate(configs):
        members.setdefault(tuple(repr(config.get(key)) for key in keys), []).append(index)
    settings = []
    for indices in members.values():
        values = {key: configs[indices[0]].get(key) for key in keys}
        own = sorted(
            (runs[index] for index in indices), key=lambda run: (run.setting("seed") or 0, run.name)
        )
        terms = [
            _term(key, values[key], telling) for key in telling if key in configs[indices[0]]
        ]  # null is a value
        label = ", ".join(terms) or (own[0].name if len(own) == 1 else f"{len(own)} seeds")
        settings.append(Setting(label=label, values=values, runs=tuple(own)))
    given = [{run.setting("run.label") for run in setting.runs} for setting in settings]
    if all(len(own) == 1 for own in given) and len(set.union(*given) - {None}) == len(settings) > 0:
        settings = [
            replace(each, label=own.pop()) for each, own in zip(settings, given, strict=True)
        ]
    return sorted(settings, key=lambda setting: [order_of(setting.values[key]) for key in telling])


def differing_keys(runs: Sequence[RunData]) -> list[str]:
    """Dotted config keys whose values differ between runs, those that only name or seed a run left out."""
    configs = [_computed(run) for run in runs]
    every = {key: None for config in configs for key in config}
    keys = [key for key in every if len({repr(config.get(key)) for config in configs}) > 1]
    return sorted(keys, key=lambda key: (FIRST.index(key) if key in FIRST else len(FIRST), key))


def swept_axes(settings: Sequence[Setting]) -> tuple[str, str] | None:
    """The two coefficients to lay a map over: the first two keys with numbers that vary one without the other."""
    keys = [key for key in settings[0].values if _is_axis(settings, key)] if settings else []
    for index, first in enumerate(keys):
        for second in keys[index + 1 :]:
            pairs = {(repr(s.values[first]), repr(s.values[second])) for s in settings}
            sizes = [len({pair[side] for pair in pairs}) for side in (0, 1)]
            if len(pairs) > max(sizes):
                return first, second
    return None


def paired(setting: Setting, base: Setting, key: str, kind: str) -> Mean:
    """Differences setting - base between runs of the same seed."""
    by_seed = {run.setting("seed"): summary(run, key, kind) for run in base.runs}
    differences = [
        value - other
        for run in setting.runs
        if (value := summary(run, key, kind)) is not None
        and (other := by_seed.get(run.setting("seed"))) is not None
    ]
    return mean_of(differences)


def short(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _computed(run: RunData) -> dict[str, Any]:
    return {
        key: value
        for key, value in flat(run.config).items()
        if key.split(".")[0] not in NOT_A_SETTING
    }


def _telling_keys(configs: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[str]:
    """Greedy: a key is taken where it splits what the keys before it left together, then dropped if not needed."""

    def parts(chosen: Sequence[str]) -> int:
        return len({tuple(repr(config.get(key)) for key in chosen) for config in configs})

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
        return str(value)
    alone = sum(other.rpartition(".")[2] == last for other in keys) == 1
    return f"{last if alone else key}={short(value)}"


def order_of(value: Any) -> tuple[int, float, str]:
    """None first, then numbers by size, then words."""
    if isinstance(value, bool | int | float):
        return (1, float(value), "")
    return (0, 0.0, "") if value is None else (2, 0.0, str(value))


def _is_axis(settings: Sequence[Setting], key: str) -> bool:
    values = {
        setting.values[key] if not isinstance(setting.values[key], list | dict) else ""
        for setting in settings
    }
    numbers = [
        value for value in values if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return len(numbers) > 1 and all(value is None or value in numbers for value in values)
