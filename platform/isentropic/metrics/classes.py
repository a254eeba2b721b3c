"""The four token classes of CE-GPPO (arXiv:2509.20712), and the sides of the clip.

A token is classed by the sign of its advantage (PA, NA) and by whether it is a high- or
low-probability token (HP, LP). HP and LP are decided in two ways: by a probability split, as in the
paper, and by the sign of the exact sensitivity S, which says whether pushing the token up lowers
(S > 0) or raises the entropy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isentropic.metrics.tokens import LOG_RATIO_LIMIT, Array, Mask

CLASSES = ("pa_hp", "pa_lp", "na_hp", "na_lp", "zero_adv")
# What people read; & as in the paper.
LABELS = dict(zip(CLASSES, ("PA&HP", "PA&LP", "NA&HP", "NA&LP", "A=0"), strict=True))


def bounded_ratio(log_ratio: Array) -> Array:
    """Returns [N] exp(log_ratio), the log clamped to +-20 as in the objectives."""
    return np.exp(np.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))


def high_by_probability(old_logprob: Array, p_split: float) -> Mask:
    """Returns [N] True for HP by the paper's split: p_old >= p_split."""
    # Logprobs are float32 when they come: so is the split, or its own token would be below it.
    return old_logprob >= float(np.float32(math.log(p_split)))


def high_by_sensitivity(sensitivity: Array) -> Mask:
    """Returns [N] True for HP by the sensitivity: S > 0; S = 0 counts as LP."""
    return sensitivity > 0


def class_index(advantage: Array, high: Mask) -> NDArray[np.int64]:
    """Returns [N] index into CLASSES."""
    # In bytes: nested choices between int64 take 20 times as long, and every update makes six.
    index = ~(advantage > 0) * np.int8(2)
    index += ~high
    index[advantage == 0] = 4
    return index.astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSides:
    """[N] masks of the sides; every inequality is strict, so a token on a bound is inside."""

    low: Mask  # A < 0 and ratio < 1 - clip_low: "left"
    high: Mask  # A > 0 and ratio > 1 + clip_high: "right"
    below: Mask  # A > 0 and ratio < 1 - clip_low: the pessimistic side, which the clip leaves alone
    above: Mask  # A < 0 and ratio > 1 + clip_high: the pessimistic side too
    dual: Mask  # A < 0 and ratio > dual_clip


def clip_sides(
    ratio: Array,
    advantage: Array,
    bounds: Mapping[str, float | None],
    token_metrics: Mapping[str, Array] | None = None,
) -> ClipSides:
    """Finds the sides of the clip, at the objective's own bounds.

    If an objective says which tokens it clips (BAPO's searched bounds, DPPO's probabilities), that
    counts; the sign of A is required in addition, because CISPO clips its weights for either sign.
    A bound that the objective lacks (`clip_low`, `clip_high` or `dual_clip` missing,
    or None) clips nothing: its masks are all False, its metrics 0.

    Args:
        ratio: [N] as the objective sees it: of the token or of the sequence.
        advantage: [N].
        bounds: the objective's coefficients of this step.
        token_metrics: the objective's token metrics; `clip/low_frac`, `clip/high_frac` and
            `clip/dual_frac` [N] are read.
    """
    none = np.zeros(len(ratio), dtype=bool)
    clip_low, clip_high, dual_clip = (
        bounds.get(name) for name in ("clip_low", "clip_high", "dual_clip")
    )
    is_below = none if clip_low is None else ratio < 1 - clip_low
    is_above = none if clip_high is None else ratio > 1 + clip_high
    is_beyond = none if dual_clip is None else ratio > dual_clip
    token_metrics = token_metrics or {}
    negative = advantage < 0
    positive = advantage > 0
    return ClipSides(
        low=np.asarray(token_metrics.get("clip/low_frac", is_below)).astype(bool) & negative,
        high=np.asarray(token_metrics.get("clip/high_frac", is_above)).astype(bool) & positive,
        below=is_below & positive,
        above=is_above & negative,
        dual=np.asarray(token_metrics.get("clip/dual_frac", is_beyond)).astype(bool) & negative,
    )
