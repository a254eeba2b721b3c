"""Numbers of a run, and their differences between runs of the same seed."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from isentropic.metrics.report.run_data import RunData
from isentropic.metrics.report.settings import Mean, by_seed, mean_of

Test = Callable[[RunData], bool]
SEEDS = 3  # that a claim over runs asks for
# What GRPO, DAPO and CE-GPPO have in the slots beside objective and terms.
PLAIN = {
    "advantage": "normalised",
    "reduction": "token_mean",
    "reuse": "none",
    "reweight": "none",
    "sampling": "one_wave",
    "shaping": "none",
    "steering": "none",
}
# Slots that may have anything, the same in both runs of a pair: their choices are about noise, not methods.
ALIKE = ("filter", "token_weight")


def pairs_by_seed(runs: Sequence[RunData], one: Test, other: Test) -> list[tuple[RunData, RunData]]:
    """Return pairs of runs, of one and of the other kind, that have the same seed.

    Without seeds that several runs of a kind have: none of them is the one.
    """
    values, base = (by_seed([run for run in runs if test(run)]) for test in (one, other))
    pairs = [(values[seed], base[seed]) for seed in sorted(values.keys() & base.keys())]
    return [(a, b) for a, b in pairs if all(a.config.get(k) == b.config.get(k) for k in ALIKE)]


def mean_difference(
    runs: Sequence[RunData], one: Test, other: Test, number: Callable[[RunData], float]
) -> Mean:
    """Return the mean of one - other over pairs of runs that have the same seed."""
    differences = [number(a) - number(b) for a, b in pairs_by_seed(runs, one, other)]
    return mean_of([value for value in differences if math.isfinite(value)])


def is_plain(run: RunData, **other: str) -> bool:
    """Return True for a run whose method is its objective and terms, and nothing beside them.

    other: names of slots that belong to the objective's method, in the place of `PLAIN`'s.
    """
    slots = {key: run.config.get(key) or {} for key in PLAIN}
    return all(slots[key].get("name", name) == name for key, name in (PLAIN | other).items())


def adds_terms(run: RunData) -> bool:
    """Return True if the loss has more than its objective: a term pushes tokens of every class."""
    terms = (run.config.get("terms") or {}).values()
    return any(value is not None for value in terms if not isinstance(value, str))


def area(run: RunData) -> float:
    """Return the mean entropy over the steps of the run, in nats per token."""
    values = run.values("entropy/mean")
    return float(np.mean(values)) if values else math.nan


def last_entropy(run: RunData) -> float:
    """Return the mean entropy over the last tenth of the steps."""
    values = run.values("entropy/mean")
    return float(np.mean(values[-max(1, len(values) // 10) :])) if values else math.nan


def slope(run: RunData, start: int) -> float:
    """Return nats per step from `start` on, by least squares; NaN for fewer than three steps."""
    points = [(step, value) for _, step, value in run.curve("entropy/mean") if step >= start]
    return float(np.polyfit(*zip(*points, strict=True), 1)[0]) if len(points) > 2 else math.nan
