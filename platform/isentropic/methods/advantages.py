"""Advantages: the rewards of one wave of one group to one number per rollout."""

from dataclasses import dataclass

import numpy as np

from isentropic.checks import check_choice
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
            return centred.astype(rewards.dtype)
        std = np.std(rewards, ddof=1 if self.std == "unbiased" else 0, dtype=np.float64)
        return (centred / (std + EPSILON)).astype(rewards.dtype)


@dataclass(frozen=True, kw_only=True)
class Centred:
    """Dr. GRPO's advantage (arXiv:2503.20783): A_i = R_i - mean R; 0 for a single member."""

    name: str

    def __call__(self, rewards: Floats) -> Floats:
        return _centred(rewards).astype(rewards.dtype)


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """RLOO's advantage (arXiv:2402.14740): A_i = R_i - mean of the others' R.

    That is G / (G - 1) * (R_i - mean R); 0 for a single member.
    """

    name: str

    def __call__(self, rewards: Floats) -> Floats:
        members = len(rewards)
        return (_centred(rewards) * (members / max(members - 1, 1))).astype(rewards.dtype)


def _centred(rewards: Floats) -> np.ndarray:
    """[G] float64 rewards minus their mean; exactly 0 if all are equal, however the mean rounds."""
    values = np.asarray(rewards, dtype=np.float64)
    if not len(values) or np.ptp(values) == 0:
        return np.zeros(len(values))
    return values - values.mean()
