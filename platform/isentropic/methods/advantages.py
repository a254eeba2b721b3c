"""Advantages: the rewards of one wave of one group to one number per rollout.

They have the type of the rewards, float64 if those are whole numbers.
"""

from dataclasses import dataclass

import numpy as np

from isentropic.checks import check_choice, check_range
from isentropic.records import Floats

EPSILON = 1e-6  # added to the standard deviation, outside the root


@dataclass(frozen=True, kw_only=True)
class Normalised:
    """GRPO's advantage (arXiv:2402.03300): A_i = (R_i - mean R) / (std R + 1e-6).

    It is 0 for a flat group and for a single member.
    """

    name: str
    # unbiased divides by G - 1, as nearly all code does; population by G, as some papers print.
    std: str

    def __post_init__(self) -> None:
        check_choice("advantage.std", self.std, ("unbiased", "population"))

    def __call__(self, rewards: Floats) -> Floats:
        centred = _centred(rewards)
        if len(centred) < 2:
            return centred.astype(float_dtype(rewards))
        std = np.std(rewards, ddof=1 if self.std == "unbiased" else 0, dtype=np.float64)
        return (centred / (std + EPSILON)).astype(float_dtype(rewards))


@dataclass(frozen=True, kw_only=True)
class Centred:
    """Dr. GRPO's advantage (arXiv:2503.20783): A_i = R_i - mean R; 0 for a single member."""

    name: str

    def __call__(self, rewards: Floats) -> Floats:
        return _centred(rewards).astype(float_dtype(rewards))


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """RLOO's advantage (arXiv:2402.14740): A_i = R_i - mean of the others' R.

    That is G / (G - 1) * (R_i - mean R); 0 for a single member.
    """

    name: str

    def __call__(self, rewards: Floats) -> Floats:
        members = len(rewards)
        return (_centred(rewards) * (members / max(members - 1, 1))).astype(float_dtype(rewards))


@dataclass(frozen=True, kw_only=True)
class QuantileBaseline:
    """QAE's advantage (arXiv:2509.22611): A_i = (R_i - quantile of R) / (std R + 1e-6).

    With right-or-wrong rewards one of the two kinds has A = 0: easy prompts teach by their wrong
    answers, hard ones by their right answers. It is 0 for a flat group and for a single member.
    """

    name: str
    level: float  # K, in (0, 1): 0.4; higher if the entropy collapses
    # step: the smallest reward with more than K of the group at or below it, as in the paper
    # linear: interpolated between the two nearest rewards, as in the released code
    quantile: str
    std: str  # unbiased | population, as in `Normalised`

    def __post_init__(self) -> None:
        check_range("advantage.level", self.level, above=0, below=1)
        check_choice("advantage.quantile", self.quantile, ("step", "linear"))
        check_choice("advantage.std", self.std, ("unbiased", "population"))

    def __call__(self, rewards: Floats) -> Floats:
        values = np.asarray(rewards, dtype=np.float64)
        if len(values) < 2 or np.ptp(values) == 0:
            return np.zeros(len(values), float_dtype(rewards))
        std = np.std(values, ddof=1 if self.std == "unbiased" else 0)
        return ((values - self._baseline(values)) / (std + EPSILON)).astype(float_dtype(rewards))

    def _baseline(self, values: np.ndarray) -> float:
        if self.quantile == "linear":
            return float(np.quantile(values, self.level))
        # Number of rewards at or below it: more than K G. Rounded, so that 0.4 of 5 is exactly 2.
        below = int(np.floor(round(self.level * len(values), 9)))
        return float(np.sort(values)[below])


def float_dtype(values: np.ndarray) -> np.dtype:
    """Returns the type that numbers made of `values` have: theirs, float64 if they are no floats."""
    return values.dtype if np.issubdtype(values.dtype, np.floating) else np.dtype(np.float64)


def _centred(rewards: Floats) -> np.ndarray:
    """[G] float64 rewards minus their mean; exactly 0 if all are equal, however the mean rounds."""
    values = np.asarray(rewards, dtype=np.float64)
    if not len(values) or np.ptp(values) == 0:
        return np.zeros(len(values))
    return values - values.mean()
