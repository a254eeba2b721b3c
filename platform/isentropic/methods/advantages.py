"""Advantages: the rewards of one wave of one group to one number a rollout."""

from dataclasses import dataclass

import numpy as np

from isentropic.checks import check_choice
from isentropic.records import Floats

EPSILON = 1e-6  # added to the standard deviation, outside the root


@dataclass(frozen=True, kw_only=True)
class NormalisedConfig:
    """GRPO's advantage (arXiv:2402.03300)."""

    name: str
    std: str  # unbiased (divides by G - 1, as nearly all code does) | population (by G, as some papers print)

    def __post_init__(self) -> None:
        check_choice("advantage.std", self.std, ("unbiased", "population"))

    def build(self) -> "Normalised":
        return Normalised(ddof=1 if self.std == "unbiased" else 0)


class Normalised:
    """A_i = (R_i - mean R) / (std R + 1e-6); 0 for a flat group and for a single member."""

    def __init__(self, *, ddof: int) -> None:
        self._ddof = ddof

    def __call__(self, rewards: Floats) -> Floats:
        centred = _centred(rewards)
        if len(centred) < 2:
            return centred.astype(rewards.dtype)
        std = np.std(rewards, ddof=self._ddof, dtype=np.float64)
        return (centred / (std + EPSILON)).astype(rewards.dtype)


@dataclass(frozen=True, kw_only=True)
class CentredConfig:
    """Dr. GRPO's advantage (arXiv:2503.20783): no division by the standard deviation."""

    name: str

    def build(self) -> "Centred":
        return Centred()


class Centred:
    """A_i = R_i - mean R; 0 for a single member."""

    def __call__(self, rewards: Floats) -> Floats:
        return _centred(rewards).astype(rewards.dtype)


@dataclass(frozen=True, kw_only=True)
class LeaveOneOutConfig:
    """RLOO's advantage (arXiv:2402.14740)."""

    name: str

    def build(self) -> "LeaveOneOut":
        return LeaveOneOut()


class LeaveOneOut:
    """A_i = R_i - mean of the others' R = G / (G - 1) * (R_i - mean R); 0 for a single member."""

    def __call__(self, rewards: Floats) -> Floats:
        members = len(rewards)
        return (_centred(rewards) * (members / max(members - 1, 1))).astype(rewards.dtype)


ADVANTAGES: dict[str, type] = {
    "normalised": NormalisedConfig,
    "centred": CentredConfig,
    "leave_one_out": LeaveOneOutConfig,
}


def _centred(rewards: Floats) -> np.ndarray:
    """[G] float64 rewards less their mean; exactly 0 where all are equal, whatever the mean rounds to."""
    values = np.asarray(rewards, dtype=np.float64)
    if not len(values) or np.ptp(values) == 0:
        return np.zeros(len(values))
    return values - values.mean()
