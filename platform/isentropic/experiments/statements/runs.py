"""T2 and T4 to T12 (docs/statements.md) on finished runs: judged if their runs are there."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from isentropic.experiments.statements.books import ledger_statements
from isentropic.experiments.statements.branches import (
    HELD,
    NOT_HELD,
    OTHER_WAY,
    UNDECIDED,
    Statement,
    in_errors,
    is_ce_gppo,
    is_clip,
    joint_verdict,
    sign_verdict,
)
from isentropic.experiments.statements.numbers import (
    SEEDS,
    Test,
    adds_terms,
    area,
    is_plain,
    last_entropy,
    mean_difference,
    pairs_by_seed,
    slope,
)
from isentropic.metrics.report.run_data import RunData, is_number, read_run
from isentropic.metrics.report.settings import Mean, mean_of
from isentropic.metrics.sinks.jsonl import read_lines

UPDATES = 50  # of T2
# What T2 and T4 read of an update.
OF_UPDATES = (
    "drift/low",
    "drift/high",
    "clip/frac",
    "clip/low_frac",
    "clip/high_frac",
    "lp_given_low",
    "lp_given_high",
    "frac/pa_hp",
    "frac/pa_lp",
    "frac/na_hp",
    "frac/na_lp",
)
Rows = Sequence[Mapping[str, Any]]


def run_statements(folders: Sequence[Path]) -> list[Statement]:
    """Return all statements that the runs of these folders allow, in the order of their numbers."""
    return judge_runs([read_run(folder, ended=True) for folder in folders])


def judge_runs(runs: Sequence[RunData]) -> list[Statement]:
    """Return all statements that the runs allow, in the order of their numbers.

    Runs that did not come to their last step are left out, and nothing is decided without them: a mean
    over other steps would be compared, and those that came to it may be the ones that a statement is
    true of.
    """
    whole = [run for run in runs if run.last_step >= (run.planned_steps or 0)]
    short = len(runs) - len(whole)
    found = _judged(whole)
    return [_without(statement, short) for statement in found] if short else found


def _judged(runs: Sequence[RunData]) -> list[Statement]:
    found = [
        *_sensitivity(runs),
        *_clipped_tokens(runs),
        *_fall(runs),
        *_stability(runs),
        *_switch(runs),
        *_bonus(runs),
        *_cispo(runs),
        *_gspo(runs),
    ]
    return [*(_if_clipped(statement, runs) for statement in found), *ledger_statements(runs)]


def _without(statement: Statement, short: int) -> Statement:
    number = f"{statement.number}; {short} of the runs ended before their last step"
    return replace(statement, verdict=UNDECIDED, number=number)


def ce_gppo(beta1: float, beta2: float) -> Test:
    return lambda run: is_ce_gppo(run.config.get("objective", {}), beta1, beta2) and _alone(run)


def clipped(high: float) -> Test:
    """Test for GRPO (0.2) and the paper's DAPO (0.28)."""
    return lambda run: is_clip(run.config.get("objective", {}), high) and _alone(run)


GRPO, DAPO = clipped(0.2), clipped(0.28)


def _sensitivity(runs: Sequence[RunData]) -> list[Statement]:
    """Judge T2, to first order in the logits: drift/low and drift/high over their beta."""
    sides: dict[str, list[float]] = {"low": [], "high": []}
    for run in runs:
        values = run.config.get("objective", {})
        # Drift has a term's own effect in it, which no beta scales.
        if adds_terms(run):
            continue
        for side, beta in (("low", values.get("beta1")), ("high", values.get("beta2"))):
            if values.get("name") == "ce_gppo" and isinstance(beta, int | float) and beta > 0:
                rows = [row for row in updates_of(run) if row[f"clip/{side}_frac"]]
                sides[side] += [row[f"drift/{side}"] / beta for row in rows]
    if not any(sides.values()):
        return []
    low, high = mean_of([-value for value in sides["low"]]), mean_of(sides["high"])
    verdict = joint_verdict([sign_verdict(low), sign_verdict(high)])
    if min(low.count, high.count) < UPDATES:
        verdict = UNDECIDED
    left = f"left {in_errors(replace(low, value=-low.value))}, {low.count} updates"
    return [
        Statement(
            id="T2",
            statement="left-clipped tokens push the entropy down, right-clipped ones up",
            verdict=verdict,
            number=f"{left}; right {in_errors(high)}, {high.count} updates",
            rule=f"mean drift below and above 0, beyond 3 s.e. over {UPDATES} updates (first order "
            f"in the logits); {OTHER_WAY}",
        )
    ]


def _clipped_tokens(runs: Sequence[RunData]) -> list[Statement]:
    """Judge T4, over the updates that clip something."""
    rows = [
        row for run in runs if _token_clip(run) for row in updates_of(run) if row.get("clip/frac")
    ]
    if not rows:
        return []
    low, high = (
        _weighted(rows, f"lp_given_{side}", f"clip/{side}_frac") for side in ("low", "high")
    )
    verdicts = {sign_verdict(replace(share, value=share.value - 0.5)) for share in (low, high)}
    of_low = sum(
        row["clip/low_frac"] * row["lp_given_low"] + row["clip/high_frac"] * row["lp_given_high"]
        for row in rows
    )
    everything = sum(row["clip/frac"] for row in rows)
    share_low = sum(row["frac/pa_lp"] + row["frac/na_lp"] for row in rows)
    share_high = sum(row["frac/pa_hp"] + row["frac/na_hp"] for row in rows)
    rates = of_low / max(share_low, 1e-12), (everything - of_low) / max(share_high, 1e-12)
    lost = NOT_HELD in verdicts or rates[1] >= rates[0]
    verdict = NOT_HELD if lost else HELD if verdicts == {HELD} else UNDECIDED
    return [
        Statement(
            id="T4",
            statement="tokens outside the interval are mostly low-probability ones",
            verdict=verdict if min(low.count, high.count) >= UPDATES else UNDECIDED,
            number=f"low-probability share left {_in_percent(low)}, right {_in_percent(high)}; "
            f"clip rate {rates[0]:.2%} of p < 0.5, {rates[1]:.2%} of p >= 0.5 "
            f"({len(rows)} updates)",
            rule="both shares above a half, beyond 3 s.e., and the clip rate lower from p = 0.5 on; "
            f"{UPDATES} updates that clip on each side; {OTHER_WAY}, or the clip rate is higher",
        )
    ]


def _fall(runs: Sequence[RunData]) -> list[Statement]:
    """Judge T5: area under the entropy curve, paired by seed."""
    sets = {"GRPO": GRPO, "(0.75, 1)": ce_gppo(0.75, 1.0), "DAPO": DAPO}
    if not all(any(test(run) for run in runs) for test in sets.values()):
        return []
    pairs = {
        f"{a} - {b}": mean_difference(runs, sets[a], sets[b], area)
        for a, b in (("(0.75, 1)", "GRPO"), ("DAPO", "GRPO"))
    }
    pairs["DAPO - (0.75, 1), at the end"] = mean_difference(
        runs, DAPO, sets["(0.75, 1)"], last_entropy
    )
    return [
        _all_positive(
            "T5",
            "GRPO's entropy falls fastest of GRPO, (0.75, 1) and DAPO; DAPO ends highest",
            pairs,
            "mean entropy over the run, at the end for DAPO; paired differences above 0, beyond 3 "
            f"s.e.; {OTHER_WAY}",
        )
    ]


def _stability(runs: Sequence[RunData]) -> list[Statement]:
    """Judge T6: the worst step of any seed."""
    found = []
    for label, test in (("(0.5, 1)", ce_gppo(0.5, 1.0)), ("(0.75, 1)", ce_gppo(0.75, 1.0))):
        pairs = pairs_by_seed(runs, test, GRPO)
        if pairs:
            judged, base = zip(*pairs, strict=True)
            ratios = {
                key: _worst(judged, key) / max(_worst(base, key), 1e-12)
                for key in ("kl/k1", "grad_norm/max")
            }
            skipped = sum(sum(run.values("update/skipped")) for run in judged)
            known = all(math.isfinite(ratio) for ratio in ratios.values()) and len(pairs) >= SEEDS
            held = max(ratios.values()) <= 2 and not skipped
            text = ", ".join(f"{key} {ratio:.2f} of GRPO's" for key, ratio in ratios.items())
            found.append(
                Statement(
                    id=f"T6 {label}",
                    statement=f"CE-GPPO {label} is as stable as GRPO",
                    verdict=(HELD if held else NOT_HELD) if known else UNDECIDED,
                    number=f"{text}; {skipped:g} updates skipped; {len(pairs)} seeds",
                    rule="largest |KL k1| and gradient norm of the runs within 2 of GRPO's, no "
                    f"update skipped, else not held; {SEEDS} seeds",
                )
            )
    return found


def _switch(runs: Sequence[RunData]) -> list[Statement]:
    """Judge T7: slope of the entropy behind the switch, against the twin that did not switch."""

    def switched(run: RunData) -> bool:
        return _switch_step(run) is not None and _alone(run)

    steps = {_switch_step(run) for run in runs if switched(run)}
    if len(steps) != 1 or not any(ce_gppo(0.0, 1.0)(run) for run in runs):
        return []
    step = steps.pop()
    pairs = {
        "slope twin - switched": mean_difference(
            runs, ce_gppo(0.0, 1.0), switched, lambda run: slope(run, step)
        )
    }
    rule = (
        f"least-squares slope from step {step} on; paired differences above 0, beyond 3 s.e.; "
        f"{OTHER_WAY}"
    )
    return [
        _all_positive(
            "T7",
            f"switching (0, 1) to (0.5, 1) at step {step} lowers the entropy's slope",
            pairs,
            rule,
        )
    ]


def _bonus(runs: Sequence[RunData]) -> list[Statement]:
    """Judge T8: what a fixed entropy bonus ends in."""
    found: dict[float, list[RunData]] = {}
    for run in runs:
        coefficient = _bonus_of(run)
        is_fixed = isinstance(coefficient, int | float) and coefficient > 0
        if is_fixed and len(run.values("entropy/mean")) > 1:
            found.setdefault(float(coefficient), []).append(run)
    if len(found) < 2:
        return []
    ends = {key: [_last_over_first(run) for run in same] for key, same in found.items()}
    extremes = min(found), max(found)
    small, large = (float(np.mean(ends[key])) for key in extremes)
    verdict = HELD if small < 0.5 and large > 1.5 else NOT_HELD if large <= small else UNDECIDED
    if any(len({run.setting("seed") for run in found[key]}) < SEEDS for key in extremes):
        verdict = UNDECIDED
    text = ", ".join(
        f"{key:g}: {_with_error(mean_of(values))}" for key, values in sorted(ends.items())
    )
    return [
        Statement(
            id="T8",
            statement="a fixed entropy bonus collapses or explodes, by its coefficient",
            verdict=verdict,
            number=f"last entropy over the first, by coefficient: {text}",
            rule="below 0.5 for the smallest, above 1.5 for the largest; not held if they rank the "
            f"other way; {SEEDS} seeds of both",
        )
    ]


def _cispo(runs: Sequence[RunData]) -> list[Statement]:
    """Judge T9: CISPO against CE-GPPO."""

    def cispo(run: RunData) -> bool:
        values = run.config.get("objective", {})
        bounds = (values.get("clip_low"), values.get("clip_high"))
        return values.get("name") == "cispo" and bounds == (0.2, 0.2) and _alone(run)

    if not any(map(cispo, runs)) or not any(map(ce_gppo(0.5, 1.0), runs)):
        return []
    pairs = {"(0.5, 1) - CISPO": mean_difference(runs, ce_gppo(0.5, 1.0), cispo, area)}
    text = "CISPO (0.2, 0.2) loses entropy faster than CE-GPPO (0.5, 1)"
    return [
        _all_positive(
            "T9",
            text,
            pairs,
            f"mean entropy over the run; paired differences above 0, beyond 3 s.e.; {OTHER_WAY}",
        )
    ]


def _gspo(runs: Sequence[RunData]) -> list[Statement]:
    """Judge T10: how much GSPO clips."""

    def gspo(run: RunData) -> bool:
        is_gspo = run.setting("objective.name") == "gspo" and not adds_terms(run)
        # Its ratio is a sequence's, and so is its mean.
        return is_gspo and is_plain(run, reduction="sequence_mean")

    pairs = pairs_by_seed(runs, gspo, GRPO)
    if not pairs:
        return []
    share = [
        float(np.mean([np.mean(run.values("clip/frac")) for run in some]))
        for some in zip(*pairs, strict=True)
    ]
    ratio = share[0] / share[1] if share[1] else math.nan
    unknown = math.isnan(ratio) or len(pairs) < SEEDS
    return [
        Statement(
            id="T10",
            statement="GSPO clips an order of magnitude more tokens than GRPO",
            verdict=UNDECIDED if unknown else HELD if ratio > 5 else NOT_HELD,
            number=f"clip/frac {share[0]:.2%} against {share[1]:.2%}: {ratio:.1f} times; "
            f"{len(pairs)} seeds",
            rule=f"more than 5 times, else not held; {SEEDS} seeds",
        )
    ]


def updates_of(run: RunData) -> Rows:
    """Return the lines of updates.jsonl that have all numbers a statement may need.

    Without updates that were skipped: they moved nothing.
    """
    rows = read_lines(run.folder / "updates.jsonl")[0]
    return [
        row
        for row in rows
        if isinstance(row, dict)
        and not row.get("skipped")
        and all(is_number(row.get(key)) for key in OF_UPDATES)
    ]


def _all_positive(name: str, text: str, pairs: Mapping[str, Mean], rule: str) -> Statement:
    verdict = joint_verdict(sign_verdict(mean) for mean in pairs.values())
    seeds = min(mean.count for mean in pairs.values())
    number = (
        "; ".join(f"{label}: {in_errors(mean)}" for label, mean in pairs.items())
        + f"; {seeds} seeds"
    )
    if seeds < SEEDS:
        verdict, number = UNDECIDED, f"{number}, {SEEDS} are asked for"
    return Statement(id=name, statement=text, verdict=verdict, number=number, rule=rule)


def _if_clipped(statement: Statement, runs: Sequence[RunData]) -> Statement:
    """Apply T0: if no token left the interval, clipping had no effect that could be judged."""
    if any(sum(run.values("clip/frac")) > 0 for run in runs):
        return statement
    return replace(
        statement,
        verdict=UNDECIDED,
        number=f"{statement.number}; nothing was clipped in any run",
    )


def _alone(run: RunData) -> bool:
    """Return True if the run's method is its objective and nothing else."""
    return is_plain(run) and not adds_terms(run)


def _bonus_of(run: RunData) -> Any:
    bonus = (run.config.get("terms") or {}).get("entropy_bonus")
    return bonus.get("coef") if isinstance(bonus, Mapping) else bonus


def _last_over_first(run: RunData) -> float:
    values = run.values("entropy/mean")
    return values[-1] / max(values[0], 1e-12)


def _token_clip(run: RunData) -> bool:
    values = run.config.get("objective", {})
    return values.get("name") in ("clip", "ce_gppo", "gppo") and values.get("ratio") == "token"


def _switch_step(run: RunData) -> int | None:
    """Return the step at which CE-GPPO's beta1 goes from 0 to a half; None if it does not."""
    values = run.config.get("objective", {})
    beta1 = values.get("beta1")
    if not is_ce_gppo(values, beta1, 1.0):
        return None
    if not isinstance(beta1, Mapping) or beta1.get("kind") != "switch" or beta1.get("before") != 0:
        return None
    return beta1.get("step") if beta1.get("after") == 0.5 else None


def _weighted(rows: Rows, key: str, weight: str) -> Mean:
    """Return the weighted mean over the rows, with the standard error of a ratio of sums."""
    weights = np.array([row[weight] for row in rows])
    values = np.array([row[key] for row in rows])
    total, count = weights.sum(), int((weights > 0).sum())
    if not count:
        return Mean(value=math.nan, error=math.nan, count=0)
    mean = float((weights * values).sum() / total)
    squares = (weights**2 * (values - mean) ** 2).sum() * count / max(count - 1, 1)
    return Mean(
        value=mean, error=float(np.sqrt(squares) / total) if count > 1 else math.nan, count=count
    )


def _with_error(mean: Mean) -> str:
    return f"{mean.value:.2f} ± {mean.error:.2f}" if mean.count > 1 else f"{mean.value:.2f}"


def _in_percent(share: Mean) -> str:
    return f"{share.value:.0%} ± {share.error:.1%}" if share.count > 1 else "not known"


def _worst(runs: Sequence[RunData], key: str) -> float:
    values = [abs(value) for run in runs for value in run.values(key)]
    return max(values) if values else math.nan
