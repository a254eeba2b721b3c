"""The phase signal of PAPO: from the run's entropies to one number u_k in [-1, 1] per step.

u = +1: entropy is too low, favour expansion; -1: too high, favour contraction; 0: the base method.
[source] PAPO (arXiv:2605.11775), abstract: the entropy trajectory is an online phase signal.
[reconstructed] all formulas and constants here: we could not get the paper's text. Each is a
config value.
"""

import math
from dataclasses import dataclass
from typing import Any

from isentropic.checks import check_choice, check_range

SIGNALS = ("level", "trend", "two_phase", "balance", "off")
AUTO_STEPS = 5  # h_ref=auto is half of the mean entropy of so many first steps
SLOW = 0.98  # decay of the slow average that `trend` compares with


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """Which signal, and its constants; [reconstructed], all of them."""

    signal: str  # level | trend | two_phase | balance | off
    h_ref: float | int | str  # nats; auto: half of the mean entropy of the first five steps
    tau: float  # relative distance from the reference at which the signal is tanh(1)
    beta: float  # decay of the smoothed entropy M

    def __post_init__(self) -> None:
        check_choice("papo.signal", self.signal, SIGNALS)
        if isinstance(self.h_ref, str):
            check_choice("papo.h_ref", self.h_ref, ("auto",))
        else:
            check_range(
                "papo.h_ref",
                self.h_ref,
                above=0,
                hint="It is an entropy in nats per token; or write auto.",
            )
        check_range("papo.tau", self.tau, above=0)
        check_range("papo.beta", self.beta, at_least=0, below=1)


class Phase:
    """The controller of the signal. Its state is a few numbers, equal on resume.

        M_k = beta M_{k-1} + (1 - beta) Hbar_k            M_0 = Hbar_0
        S_k = 0.98 S_{k-1} + 0.02 Hbar_k                  S_0 = Hbar_0
        level      u = tanh((h_ref - M) / (tau h_ref))
        trend      u = tanh((S - M) / (tau S))
        two_phase  u = +1 if M < h_ref else -1
        balance    u = (F- - F+) / (F- + F+)              OPEFO (arXiv:2605.11491), a baseline
        off        u = 0

    With h_ref auto, u is 0 until the reference is known ([reconstructed]).
    """

    def __init__(self, config: PhaseConfig) -> None:
        self.config = config
        self.smoothed: float | None = None  # M
        self.slow: float | None = None  # S
        self.first: list[float] = []  # Hbar of the first steps, for h_ref auto

    @property
    def h_ref(self) -> float | None:
        """The reference in nats; None while `auto` has not seen its steps."""
        if not isinstance(self.config.h_ref, str):
            return self.config.h_ref
        return 0.5 * sum(self.first) / AUTO_STEPS if len(self.first) == AUTO_STEPS else None

    def advance(self, entropy_mean: float, expand: float, contract: float) -> float:
        """Takes the step's entropy and flows, and gives the signal u.

        Args:
            entropy_mean: Hbar_k in nats; NaN (an empty step) leaves the averages as they are.
            expand, contract: F+ and F-, sums of |P| over the two branches of the batch, >= 0.
        """
        if math.isfinite(entropy_mean):
            beta = self.config.beta
            self.smoothed = _average(self.smoothed, entropy_mean, beta)
            self.slow = _average(self.slow, entropy_mean, SLOW)
            if len(self.first) < AUTO_STEPS:
                self.first.append(float(entropy_mean))
        return self._signal(expand, contract)

    def _signal(self, expand: float, contract: float) -> float:
        signal, tau = self.config.signal, self.config.tau
        if signal == "balance":
            total = contract + expand
            return (contract - expand) / total if total > 0 else 0.0
        if signal == "off" or self.smoothed is None:
            return 0.0
        reference = self.slow if signal == "trend" else self.h_ref
        if reference is None:
            return 0.0
        if signal == "two_phase":
            return 1.0 if self.smoothed < reference else -1.0
        return math.tanh((reference - self.smoothed) / (tau * reference)) if reference > 0 else 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"smoothed": self.smoothed, "slow": self.slow, "first": list(self.first)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.smoothed = state["smoothed"]
        self.slow = state["slow"]
        self.first = list(state["first"])


def _average(old: float | None, new: float, decay: float) -> float:
    return float(new) if old is None else decay * old + (1 - decay) * float(new)
