"""T3, what CE-GPPO's paper (arXiv:2509.20712) says about its coefficients, judged on branches.

All statements, T0 to T12, stand in docs/statements.md.

A verdict is held, not held or undecided, and comes with its number. Nothing is forced: a difference
inside three standard errors decides nothing, and too few points or seeds do not either.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from isentropic.durable import write_text_durably
from isentropic.metrics.report.branches import SETTINGS, Branches
from isentropic.metrics.report.settings import BLOCK, Mean
from isentropic.metrics.report.statements import STATEMENTS

HELD, NOT_HELD, UNDECIDED = "held", "not held", "undecided"
LIMIT = 3.0  # standard errors
OTHER_WAY = f"not held if one is beyond {LIMIT:g} s.e. the other way"  # ends a rule
POINTS = 40  # branch points that the order of T3 asks for
# Over all contexts of a point: those that the branches trained on and those of other steps, alike.
# The parts are reported beside it, and not judged: a token that was pushed up may have become the
# likely one on the contexts trained on.
ENTROPY = "entropy"
PARTS = {"entropy_trained": "trained on", "entropy_held_out": "held out"}
Coefficients = Mapping[str, Any]  # of an objective, with its name and the loss's terms
BOUNDS = {"ratio": "token", "clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}  # GRPO's


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A row of statements.json."""

    id: str
    statement: str
    verdict: str
    number: str
    rule: str


def write_statements(folder: Path, statements: Sequence[Statement]) -> list[dict[str, str]]:
    """Write statements.json beside the report, and return its rows."""
    rows = [asdict(statement) for statement in statements]
    write_text_durably(folder / STATEMENTS, json.dumps(rows, indent=1) + "\n")
    return rows


def branch_statements(folder: Path) -> list[Statement]:
    """Judge T3, as far as the settings of a branch folder allow it."""
    branches = Branches(folder)
    return [
        _ordered(order.id, order.statement, branches, order.labels)
        for order in orders(folder, branches)
    ]


@dataclass(frozen=True, kw_only=True)
class Order:
    """A claim of T3: these settings stand by falling entropy."""

    id: str
    statement: str
    labels: tuple[str, ...]


def orders(folder: Path, branches: Branches) -> list[Order]:
    """Return the claims of T3 that the settings of a branch folder allow to be judged."""
    objectives = _objectives(folder / SETTINGS, branches.settings)
    found = []
    for key, other, rising in (("beta1", "beta2", False), ("beta2", "beta1", True)):
        chain = coefficient_chain(objectives, key, other)
        if len(chain) > 1:
            labels = list(reversed(chain)) if rising else chain
            fixed = objectives[chain[0]][other]
            direction = "falls" if rising else "grows"
            text = f"entropy after the same updates falls as {key} {direction} ({other} {fixed:g})"
            found.append(Order(id=f"T3 {key}", statement=text, labels=tuple(labels)))
    grpo = [label for label, values in objectives.items() if is_clip(values, 0.2)]
    dapo = [label for label, values in objectives.items() if is_clip(values, 0.28)]
    free = [label for label, values in objectives.items() if is_ce_gppo(values, 0.0, 1.0)]
    for name, text, above in (
        ("T3 DAPO", "DAPO's entropy is above GRPO's", dapo),
        ("T3 (0,1)", "CE-GPPO (0,1)'s entropy is above GRPO's", free),
    ):
        pairs = [
            (one, base)
            for one in above
            for base in grpo
            if objectives[one].get("terms") == objectives[base].get("terms")
        ]
        if pairs:
            found.append(Order(id=name, statement=text, labels=pairs[0]))
    return found


def _objectives(path: Path, labels: Sequence[str]) -> dict[str, Coefficients]:
    """Return the coefficients of each setting. Raises ValueError if the file does not say them."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        return {label: dict(settings[label]["objective"]) for label in labels}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} does not say what the branches' settings are ({type(error).__name__}: "
            f"{error}). Restore it, or branch again into another folder: out=<folder>."
        ) from error


def coefficient_chain(objectives: Mapping[str, Coefficients], key: str, other: str) -> list[str]:
    """Return CE-GPPO settings that differ only in `key`, by its size; `other` is 1 if it can."""
    chains: dict[Any, dict[float, str]] = {}
    for label, values in objectives.items():
        if values.get("name") == "ce_gppo" and isinstance(values.get(key), int | float):
            rest = tuple(
                sorted((name, repr(value)) for name, value in values.items() if name != key)
            )
            chains.setdefault((values.get(other) != 1, rest), {}).setdefault(
                float(values[key]), label
            )
    if not chains:
        return []
    longest = max(chains, key=lambda rest: (len(chains[rest]), not rest[0]))
    return [label for _, label in sorted(chains[longest].items())]


def is_ce_gppo(values: Coefficients, beta1: float, beta2: float) -> bool:
    """Return True for CE-GPPO with these two coefficients, and GRPO's bounds."""
    wanted = {"name": "ce_gppo", "beta1": beta1, "beta2": beta2, **BOUNDS}
    return all(values.get(key, BOUNDS.get(key)) == value for key, value in wanted.items())


def is_clip(values: Coefficients, high: float) -> bool:
    """Return True for the clipped surrogate with GRPO's bounds, but for the upper one."""
    wanted = {**BOUNDS, "name": "clip", "clip_high": high}
    return all(values.get(key) == value for key, value in wanted.items())


def _ordered(name: str, text: str, branches: Branches, labels: Sequence[str]) -> Statement:
    """Judge an order of settings.

    labels: the settings by falling entropy, as stated.
    """
    ends, steps = differences_of(branches, labels)
    parts = {
        part: branches.mean_difference(labels[0], key, labels[-1]) for key, part in PARTS.items()
    }
    points = min(mean.count for mean in (ends, *steps))
    clipped = max((branches.mean(label, "clip_frac").value for label in labels), default=0.0)
    by_mean = sorted(labels, key=lambda label: -branches.mean(label, ENTROPY).value)
    number = (
        f"{labels[0]} minus {labels[-1]}: {in_errors(ends)}, {points} points; "
        f"order {' > '.join(by_mean)}"
    )
    number += "".join(f"; {part} {in_errors(mean)}" for part, mean in parts.items() if mean.count)
    rule = (
        f"means in this order over {POINTS} points, its ends beyond {LIMIT:g} s.e. (the larger of "
        f"two: of blocks of {BLOCK} points and, if there are several, of runs); clip_frac above 0; "
        f"{OTHER_WAY}, ends or neighbours"
    )
    verdict = order_verdict(ends, steps)
    if points < POINTS or not clipped > 0:
        verdict = UNDECIDED
        number += "; nothing was clipped" if not clipped > 0 else f"; {POINTS} points are asked for"
    return Statement(id=name, statement=text, verdict=verdict, number=number, rule=rule)


def differences_of(branches: Branches, labels: Sequence[str]) -> tuple[Mean, list[Mean]]:
    """Return the differences of entropy of an order: of its ends, and of its neighbours."""
    pairs = [(labels[0], labels[-1]), *pairwise(labels)]
    ends, *steps = [branches.mean_difference(one, ENTROPY, other) for one, other in pairs]
    return ends, steps


def order_verdict(ends: Mean, steps: Sequence[Mean]) -> str:
    """Return the verdict on a chain of paired differences that should all be positive."""
    if any(errors_of(mean) < -LIMIT for mean in (ends, *steps)):
        return NOT_HELD
    return HELD if errors_of(ends) > LIMIT and all(mean.value > 0 for mean in steps) else UNDECIDED


def sign_verdict(difference: Mean) -> str:
    """Return the verdict on a mean that should be positive."""
    return order_verdict(difference, [])


def joint_verdict(verdicts: Iterable[str]) -> str:
    """Return the verdict on a claim of several parts: all must hold, and one that does not ends it."""
    found = set(verdicts)
    return NOT_HELD if NOT_HELD in found else HELD if found == {HELD} else UNDECIDED


def errors_of(mean: Mean) -> float:
    """Return how many standard errors the mean is from 0; 0 if there is no error to measure by."""
    return (
        mean.value / mean.error
        if mean.count > 1 and mean.error > 0 and math.isfinite(mean.value)
        else 0.0
    )


def in_errors(mean: Mean) -> str:
    """Return the mean in words, with its error and how many of them it is from 0."""
    if not math.isfinite(mean.error):
        return f"{mean.value:+.3g}" if mean.count else "nothing to judge by"
    return f"{mean.value:+.3g} ± {mean.error:.2g} ({errors_of(mean):+.1f} s.e.)"
