"""Where an update's gradient mass sits, which tokens move the entropy, and by how much.

Everything here is a function of the token table and of `push`, the derivative -d loss / d logprob
of the update's loss by each token: loss_weight * token_weight * F * A, with F the factor of CE-GPPO
(arXiv:2509.20712, Eq. 8 to 10) or of another objective, plus what added terms give; where a term
takes the entropy itself, d loss / d entropy counts too. So it holds for any objective, and depends
on no packing. An empty denominator gives 0. Keys: docs/metrics.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isentropic.checks import check_range
from isentropic.columns import WEIGHTS
from isentropic.metrics.classes import (
    CLASSES,
    ClipSides,
    bounded_ratio,
    class_index,
    clip_sides,
    high_by_probability,
    high_by_sensitivity,
)
from isentropic.metrics.ledger import LedgerConfig
from isentropic.metrics.panel import build_counterfactuals
from isentropic.metrics.tokens import LOG_RATIO_LIMIT, Array, Mask, TokenTable, token_table

RATIO_QUANTILES = {"ratio/p01": 0.01, "ratio/p50": 0.5, "ratio/p99": 0.99}


@dataclass(frozen=True, kw_only=True)
class AccountingConfig:
    """What the accounting of entropy measures; the values live in conf/accounting/."""

    p_split: float  # a token is high-probability (HP) from this old probability on
    # Share of the rollouts whose entropy is measured again after the step; 0 measures none.
    recheck_share: float
    ledger: LedgerConfig
    counterfactuals: dict[str, Any]  # label -> objective: what it would have done on the same batch

    def __post_init__(self) -> None:
        check_range("accounting.p_split", self.p_split, above=0, below=1)
        check_range("accounting.recheck_share", self.recheck_share, at_least=0, at_most=1)
        build_counterfactuals(self.counterfactuals)  # refuses a bad panel before anything starts


def share(part: float, whole: float) -> float:
    """part / whole, and 0 if there is nothing to share."""
    return float(part) / float(whole) if whole else 0.0


def update_metrics(
    table: TokenTable,
    *,
    push: Array,
    bounds: Mapping[str, float | None],
    p_split: float,
    token_metrics: Mapping[str, Array] | None = None,
    d_entropy: Array | None = None,
) -> dict[str, float]:
    """Compute all metrics of one update.

    Args:
        table: the tokens of the update.
        push: [N] -d loss / d logprob of the update's loss, reward units; weights included.
        bounds: the objective's coefficients; `clip_low`, `clip_high` and `dual_clip` are read.
        p_split: HP from this probability on.
        token_metrics: the objective's token metrics. `ratio` is the ratio it used (of the sequence for GSPO),
            else the token's own; for the rest see `clip_sides`.
        d_entropy: [N] d loss / d entropy, weights included; None if the loss has no entropy in it.
    """
    token_metrics = token_metrics or {}
    ratio = np.asarray(token_metrics.get("ratio", bounded_ratio(table.log_ratio)), dtype=np.float64)
    sides = clip_sides(ratio, table.advantage, bounds, token_metrics)
    high = high_by_probability(table.old_logprob, p_split)
    metrics = _fractions(table, sides, high)
    metrics |= gradient_metrics(table, push=push, sides=sides, p_split=p_split, d_entropy=d_entropy)
    ppo = np.where(sides.low | sides.high | sides.dual, 0.0, push)
    metrics |= mass_shares("grad_share_ppo", np.abs(ppo), class_index(table.advantage, high), sides)
    metrics["cov"] = _mean(table.advantage * table.sensitivity)
    metrics |= _ratio_metrics(table.log_ratio, ratio)
    metrics["entropy/current"] = _measured(table.entropy)
    return metrics


def gradient_metrics(
    table: TokenTable,
    *,
    push: Array,
    sides: ClipSides,
    p_split: float,
    d_entropy: Array | None = None,
) -> dict[str, float]:
    """Compute gradient mass and first-order entropy change, per class and per side of the clip.

    grad_share/*        share of |push|, the magnitude on grad log pi
    grad_share_logit/*  same, times sqrt(1 - 2 p + sum p^2), the L2 norm of d log pi / d logits
    drift/*             sum over the class of `free_drift`: the entropy change per unit learning
                        rate, to first order, if each token's logits moved freely. Under
                        token_mean, without mismatch weights and added terms, that is -mean(F A S).

    The classes by the sign of S have the suffix _s (grad_share_s/*, drift_s/*).
    """
    mass = np.abs(push)
    probability = np.exp(table.old_logprob)
    logit_norm = np.sqrt(np.maximum(1 - 2 * probability + table.sum_p2, 0))
    drift = free_drift(table, push, d_entropy)
    by_probability = class_index(table.advantage, high_by_probability(table.old_logprob, p_split))
    by_sensitivity = class_index(table.advantage, high_by_sensitivity(table.sensitivity))
    metrics = mass_shares("grad_share", mass, by_probability, sides)
    metrics |= mass_shares("grad_share_s", mass, by_sensitivity)
    metrics |= mass_shares("grad_share_logit", mass * logit_norm, by_probability, sides)
    metrics |= _by_class("drift", drift, by_probability) | _by_class(
        "drift_s", drift, by_sensitivity
    )
    metrics["drift/low"] = float(drift[sides.low].sum())
    metrics["drift/high"] = float(drift[sides.high].sum())
    metrics["drift/total"] = float(drift.sum())
    return metrics


def free_drift(table: TokenTable, push: Array, d_entropy: Array | None = None) -> Array:
    """Compute what each token does to its entropy per unit learning rate, on free logits: [N] nats.

        -push * S - d_entropy * sum_s2

    A gradient step moves the logits z by -(d loss / dz), and dH / dz_a = -s_a. The part of the loss
    that takes logprob gives the first term, the part that takes H itself, such as the entropy
    bonus, the second (`objectives.tokens.statistics`).

    Args:
        push: [N] -d loss / d logprob.
        d_entropy: [N] d loss / d entropy; None if the loss has no entropy in it. Then sum_s2 is not
            read. With it, a token without sum_s2 (stored by an earlier version) gives NaN.
    """
    drift = -push * table.sensitivity
    if d_entropy is None:
        return drift
    return drift - d_entropy * table.columns.get("sum_s2", np.nan)


def mass_shares(
    prefix: str, mass: Array, index: Array, sides: ClipSides | None = None
) -> dict[str, float]:
    """Compute each class's (and side's) share of the sum of `mass`."""
    total = mass.sum()
    metrics = {name: share(part, total) for name, part in _by_class(prefix, mass, index).items()}
    if sides is not None:
        metrics[f"{prefix}/low"] = share(mass[sides.low].sum(), total)
        metrics[f"{prefix}/high"] = share(mass[sides.high].sum(), total)
    return metrics


def mean_over_updates(
    rows: Sequence[Mapping[str, float]], p_split: float = 0.5
) -> dict[str, float]:
    """Average the metrics of a step's updates; of `ratio/max` take the largest.

    A step without updates gets the metrics of an empty batch, so that every line has the same keys.
    """
    if not rows:
        nothing = np.zeros(0)
        unweighed = dict.fromkeys(WEIGHTS, ())
        empty = token_table([], weights=unweighed, logprob=nothing, entropy=nothing)
        return update_metrics(empty, push=np.zeros(0), bounds={}, p_split=p_split)
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    if "ratio/max" in means:
        means["ratio/max"] = max(row["ratio/max"] for row in rows)
    return means


def _fractions(table: TokenTable, sides: ClipSides, high: Mask) -> dict[str, float]:
    """Count token shares: of the classes, of the clipped sides, of the pessimistic sides."""
    count = len(table)
    low = int(sides.low.sum())
    right = int(sides.high.sum())
    metrics = {}
    by_sensitivity = high_by_sensitivity(table.sensitivity)
    for prefix, is_high in (("frac", high), ("frac_s", by_sensitivity)):
        counts = np.bincount(class_index(table.advantage, is_high), minlength=len(CLASSES))
        metrics |= {
            f"{prefix}/{name}": share(part, count)
            for name, part in zip(CLASSES, counts, strict=True)
        }
    return metrics | {
        "clip/frac": share(low + right, count),
        "clip/low_frac": share(low, count),
        "clip/high_frac": share(right, count),
        "clip/low_given_neg": share(low, (table.advantage < 0).sum()),
        "clip/high_given_pos": share(right, (table.advantage > 0).sum()),
        "clip/dual_frac": share(sides.dual.sum(), count),
        "lp_given_low": share((sides.low & ~high).sum(), low),
        "lp_given_high": share((sides.high & ~high).sum(), right),
        "pess/pos_below_frac": share(sides.below.sum(), count),
        "pess/neg_above_frac": share(sides.above.sum(), count),
    }


def _by_class(prefix: str, values: Array, index: Array) -> dict[str, float]:
    """Sum `values` over each class."""
    sums = np.bincount(index, weights=values, minlength=len(CLASSES))
    return {f"{prefix}/{name}": float(part) for name, part in zip(CLASSES, sums, strict=True)}


def _ratio_metrics(log_ratio: Array, ratio: Array) -> dict[str, float]:
    """Estimate KL(old || current) by k1 and k3 on the token ratio; quantiles of the ratio used."""
    bounded = np.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    quantiles = (
        np.quantile(ratio, list(RATIO_QUANTILES.values())) if len(ratio) else np.full(3, np.nan)
    )
    return {
        "kl/k1": _measured(-log_ratio),
        "kl/k3": _measured(np.expm1(bounded) - bounded),
        **dict(zip(RATIO_QUANTILES, map(float, quantiles), strict=True)),
        "ratio/max": float(ratio.max()) if len(ratio) else float("nan"),
    }


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else 0.0


def _measured(values: Array) -> float:
    """Average what 0 would be a statement of: the entropy of nothing is not 0, but not known."""
    return float(values.mean()) if len(values) else float("nan")
