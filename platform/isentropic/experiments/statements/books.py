"""T11 and T12 (docs/statements.md): what the entropy ledger of finished runs says."""

import math
from collections.abc import Sequence

import numpy as np

from isentropic.experiments.statements.branches import (
    HELD,
    NOT_HELD,
    OTHER_WAY,
    UNDECIDED,
    Statement,
    in_errors,
    joint_verdict,
    sign_verdict,
)
from isentropic.experiments.statements.numbers import SEEDS, adds_terms, is_plain
from isentropic.metrics.classes import LABELS
from isentropic.metrics.report.run_data import RunData
from isentropic.metrics.report.settings import (
    BLOCK,
    Mean,
    by_seed,
    group_settings,
    in_blocks,
    mean_of,
    same,
    summary,
)

MEASURED = 40  # measured steps of T11
BAND = 0.03  # nats of T12: a quarter of what separates the targets from the unsteered run
SETTLING = 10  # steps from steering.from_step on that T12 leaves out
REWARD = "eval/avg_at_k"
SIGNS = {"pa_hp": -1, "pa_lp": 1, "na_hp": 1, "na_lp": -1}


def ledger_statements(runs: Sequence[RunData]) -> list[Statement]:
    """Judges T11 and T12 as far as the runs have books and steering."""
    return [*_class_signs(runs), *_steering(runs)]


def _class_signs(runs: Sequence[RunData]) -> list[Statement]:
    """Judges T11, per setting: the classes' contributions through the network and AdamW.

    Not of runs whose loss has a term beside the objective: a bonus or a KL term pushes the tokens of
    each class too, and the signs are the objective's.
    """
    found = []
    judged = [run for run in runs if run.has("ledger/pa_hp") and not adds_terms(run)]
    for setting in group_settings(judged):
        means = {
            name: in_blocks(run.values(f"ledger/{name}") for run in setting.runs) for name in SIGNS
        }
        signed = [
            Mean(value=sign * means[name].value, error=means[name].error, count=means[name].count)
            for name, sign in SIGNS.items()
        ]
        verdict = joint_verdict(sign_verdict(mean) for mean in signed)
        steps = sum(len(run.values("ledger/pa_hp")) for run in setting.runs)
        number = "; ".join(f"{LABELS[name]} {in_errors(means[name])}" for name in SIGNS)
        number = f"{number}; {steps} measured steps of {len(setting.runs)} runs"
        if steps < MEASURED:
            verdict, number = UNDECIDED, f"{number}, {MEASURED} are asked for"
        found.append(
            Statement(
                id=f"T11 {setting.label}".strip(),
                statement="PA&HP and NA&LP tokens lower the entropy, PA&LP and NA&HP tokens raise "
                "it, through the real network and optimizer",
                verdict=verdict,
                number=number,
                rule=f"mean contribution in nats per step, beyond 3 s.e. (of blocks of {BLOCK} "
                f"measured steps), at least {MEASURED} measured steps; {OTHER_WAY}",
            )
        )
    return found


def _steering(runs: Sequence[RunData]) -> list[Statement]:
    """Judges T12, per target: how far the entropy is from it."""
    found = []
    for setting in group_settings([run for run in runs if run.has("steer/gap")]):
        misses = [_miss(run) for run in setting.runs]
        known = all(math.isfinite(miss) for miss in misses)
        inside = [miss <= BAND for miss in misses]
        verdict = HELD if all(inside) else NOT_HELD if not any(inside) else UNDECIDED
        saturated = mean_of([_saturated(run) for run in setting.runs])
        number = (
            f"off by {', '.join(f'{miss:.4f}' for miss in misses)} nats (root mean square, by seed)"
            f"; at its bounds in {saturated.value:.0%} of the steered steps"
            f"{_cost(setting.runs, runs)}"
        )
        seeds = len({run.setting("seed") for run in setting.runs})
        if seeds < SEEDS:
            verdict, number = UNDECIDED, f"{number}; {seeds} seeds, {SEEDS} are asked for"
        found.append(
            Statement(
                id=f"T12 {setting.label}".strip(),
                statement="steered CE-GPPO's entropy follows its target",
                verdict=verdict if known else UNDECIDED,
                number=number,
                rule=f"root mean square of entropy/mean - target at most {BAND:g} nats in every "
                f"run, from {SETTLING} steps after steering.from_step on; at least {SEEDS} seeds; not "
                "held if no run is inside",
            )
        )
    return found


def _miss(run: RunData) -> float:
    """Returns the root mean square of the gap to the target in nats, once the run has settled."""
    start = run.setting("steering.from_step") + SETTLING
    gaps = [gap for _, step, gap in run.curve("steer/gap") if step >= start]
    return float(np.sqrt(np.mean(np.square(gaps)))) if gaps else math.nan


def _saturated(run: RunData) -> float:
    """Returns the share of the steered steps in which the controller was at its bounds."""
    start = run.setting("steering.from_step")
    shares = [share for _, step, share in run.curve("steer/saturated") if step >= start]
    return float(np.mean(shares)) if shares else math.nan


def _cost(steered: Sequence[RunData], runs: Sequence[RunData]) -> str:
    """Says what the held-out reward is beside the unsteered runs', paired by seed; not judged."""
    twins = by_seed(
        [run for run in runs if run.setting("objective.name") == "ce_gppo" and is_plain(run)]
    )
    pairs = [
        (summary(run, REWARD, "last"), summary(twins[seed], REWARD, "last"))
        for run in steered
        if (seed := same(run.setting("seed"))) in twins
    ]
    differences = [one - other for one, other in pairs if one is not None and other is not None]
    if not differences:
        return ""
    return f"; last {REWARD} less the unsteered twin's: {in_errors(mean_of(differences))}"
