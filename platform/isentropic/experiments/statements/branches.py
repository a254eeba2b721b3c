"""The statements of CE-GPPO's paper that a small replication can test (specs/ce_gppo.md 4.4), judged on numbers.

A verdict is held, not held or undecided, and comes with its number. Nothing is forced: a difference inside three
standard errors decides nothing, and too few points or seeds do not either.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from isentropic.durable import write_text_durably
from isentropic.experiments.branch.branch import SETTINGS
from isentropic.metrics.report.branches import Branches
from isentropic.metrics.report.settings import Mean, mean_of
from isentropic.metrics.report.statements import STATEMENTS

HELD, NOT_HELD, UNDECIDED = "held", "not held", "undecided"
LIMIT = 3.0  # standard errors
POINTS = 40  # branch points that the order of T3 asks for
# Over all contexts of a point: those that the branches trained on and those of other steps, alike. The parts are told
# beside it, and not judged: a token that was pushed up may have become the likely one on the contexts trained on.
ENTROPY = "entropy"
PARTS = {"entropy_trained": "trained on", "entropy_held_out": "held out"}
Objective = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A row of statements.json."""

    id: str
    statement: str
    verdict: str
    number: str
    rule: str


def write_statements(folder: Path, found: Sequence[Statement]) -> list[dict[str, str]]:
    """Writes statements.json beside the report; the rows."""
    rows = [asdict(statement) for statement in found]
    write_text_durably(folder / STATEMENTS, json.dumps(rows, indent=1) + "\n")
    return rows


def branch_statements(folder: Path) -> list[Statement]:
    """T3, as far as the settings of a branch folder allow it."""
    branches = Branches(folder)
    objectives = _objectives(folder / SETTINGS, branches.settings)
    found = []
    for key, other, rising in (("beta1", "beta2", False), ("beta2", "beta1", True)):
        chain = coefficient_chain(objectives, key, other)
        if len(chain) > 1:
            labels = list(reversed(chain)) if rising else chain
            fixed = objectives[chain[0]][other]
            text = f"entropy after the same updates falls as {key} {'falls' if rising else 'grows'} ({other} {fixed:g})"
            found.append(_ordered(f"T3 {key}", text, branches, labels))
    grpo = [label for label, own in objectives.items() if _is_clip(own, 0.2)]
    dapo = [label for label, own in objectives.items() if _is_clip(own, 0.28)]
    free = [label for label, own in objectives.items() if is_ce_gppo(own, 0.0, 1.0)]
    if grpo and dapo:
        found.append(
            _ordered("T3 DAPO", "DAPO's entropy is above GRPO's", branches, [dapo[0], grpo[0]])
        )
    if grpo and free:
        found.append(
            _ordered(
                "T3 (0,1)", "CE-GPPO (0,1)'s entropy is above GRPO's", branches, [free[0], grpo[0]]
            )
        )
    return found


def _objectives(path: Path, labels: Sequence[str]) -> dict[str, Objective]:
    """Objective of each setting. Raises ValueError where the file does not say it."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {label: dict(told[label]["objective"]) for label in labels}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} does not say what the branches' settings are ({type(error).__name__}: {error}). Restore it, or "
            "branch again into another folder: out=<folder>."
        ) from error


def coefficient_chain(objectives: Mapping[str, Objective], key: str, other: str) -> list[str]:
    """Labels of CE-GPPO settings that differ in `key` alone, by its size; where `other` is 1 if that is there."""
    chains: dict[Any, dict[float, str]] = {}
    for label, own in objectives.items():
        if own.get("name") == "ce_gppo" and isinstance(own.get(key), int | float):
            rest = tuple(sorted((name, repr(value)) for name, value in own.items() if name != key))
            chains.setdefault((own.get(other) != 1, rest), {}).setdefault(float(own[key]), label)
    if not chains:
        return []
    longest = max(chains, key=lambda about: (len(chains[about]), not about[0]))
    return [label for _, label in sorted(chains[longest].items())]


def is_ce_gppo(own: Objective, beta1: float, beta2: float) -> bool:
    return own.get("name") == "ce_gppo" and (own.get("beta1"), own.get("beta2")) == (beta1, beta2)


def _is_clip(own: Objective, high: float) -> bool:
    plain = (
        own.get("ratio") == "token" and own.get("dual_clip") is None and own.get("clip_low") == 0.2
    )
    return own.get("name") == "clip" and plain and own.get("clip_high") == high


def _ordered(name: str, text: str, branches: Branches, labels: Sequence[str]) -> Statement:
    """labels: the settings by falling entropy, as stated."""
    ends = _difference(branches, ENTROPY, labels[0], labels[-1])
    steps = [_difference(branches, ENTROPY, a, b) for a, b in pairwise(labels)]
    parts = {told: _difference(branches, key, labels[0], labels[-1]) for key, told in PARTS.items()}
    clipped = max((branches.mean(label, "clip_frac").value for label in labels), default=0.0)
    by_mean = sorted(labels, key=lambda label: -branches.mean(label, ENTROPY).value)
    number = f"{labels[0]} minus {labels[-1]}: {in_errors(ends)}, {ends.count} points; order {' > '.join(by_mean)}"
    number += "".join(f"; {told} {in_errors(each)}" for told, each in parts.items() if each.count)
    rule = f"means in this order over {POINTS} points, its ends beyond {LIMIT:g} s.e.; clip_frac above 0"
    verdict = order_verdict(ends, steps)
    if ends.count < POINTS or not clipped > 0:
        verdict = UNDECIDED
        number += "; nothing was clipped" if not clipped > 0 else f"; {POINTS} points are asked for"
    return Statement(id=name, statement=text, verdict=verdict, number=number, rule=rule)


def _difference(branches: Branches, key: str, one: str, other: str) -> Mean:
    return mean_of(list(branches.differences(one, key, other).values()))


def order_verdict(ends: Mean, steps: Sequence[Mean]) -> str:
    """Of a chain of paired differences that should all be positive, and the one of its ends."""
    if any(errors_of(each) < -LIMIT for each in (ends, *steps)):
        return NOT_HELD
    return HELD if errors_of(ends) > LIMIT and all(each.value > 0 for each in steps) else UNDECIDED


def sign_verdict(difference: Mean) -> str:
    """Of a mean that should be positive."""
    return order_verdict(difference, [])


def errors_of(mean: Mean) -> float:
    """How many standard errors it is from 0; 0 where there is no error to tell it by."""
    return (
        mean.value / mean.error
        if mean.count > 1 and mean.error > 0 and math.isfinite(mean.value)
        else 0.0
    )


def in_errors(mean: Mean) -> str:
    if not math.isfinite(mean.error):
        return f"{mean.value:+.3g}" if mean.count else "nothing to judge by"
    return f"{mean.value:+.3g} ± {mean.error:.2g} ({errors_of(mean):+.1f} s.e.)"
