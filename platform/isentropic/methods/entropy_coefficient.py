"""The adaptive coefficient of the entropy bonus, after Skywork-OR1 (arXiv:2505.22312)."""

from typing import Any

from isentropic.methods.control.controller import Aim
from isentropic.objectives.terms import AdaptiveEntropyConfig, TermsConfig


class EntropyCoefficient:
    """After each step with entropy H, in nats per token:

        c <- min(c + step_size, max) if H < target else max(c - step_size, 0)

    The bonus is on only while H < target: `value` is c then, else 0. Before the first step it is
    `start`.
    """

    def __init__(self, config: AdaptiveEntropyConfig) -> None:
        self._config = config
        self._coefficient = config.start
        self._on = True

    @property
    def value(self) -> float:
        """The coefficient for the coming updates: term_coefficients["entropy_bonus"]."""
        return self._coefficient if self._on else 0.0

    def update(self, entropy_mean: float) -> float:
        """Takes the step's entropy in nats, gives `value`; NaN (an empty step) changes nothing."""
        config = self._config
        if entropy_mean == entropy_mean:
            self._on = entropy_mean < config.target
            change = config.step_size if self._on else -config.step_size
            self._coefficient = min(max(self._coefficient + change, 0.0), config.max)
        return self.value

    def aim(self) -> Aim:
        """The floor that it holds; saturated while the entropy is below it and c is at its most."""
        at_most = self._on and self._coefficient == self._config.max
        return Aim(low=self._config.target, high=None, mode=float(self._on), saturated=at_most)

    def state_dict(self) -> dict[str, Any]:
        return {"coefficient": self._coefficient, "on": self._on}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._coefficient, self._on = float(state["coefficient"]), bool(state["on"])


class TermCoefficients:
    """The coefficients of all added terms per step: schedules, and the adaptive one if it is on."""

    def __init__(self, config: TermsConfig) -> None:
        self._config = config
        rule = config.adaptive_entropy
        self._entropy = EntropyCoefficient(rule) if rule is not None else None

    def at(self, step: int) -> dict[str, float]:
        """For the updates of `step` (from 1)."""
        adaptive = {"entropy_bonus": self._entropy.value} if self._entropy is not None else {}
        return self._config.at(step) | adaptive

    def observe(self, entropy_mean: float) -> dict[str, float]:
        """Takes the step's entropy in nats; metrics of the rule."""
        return (
            {"terms/entropy_coef": self._entropy.update(entropy_mean)}
            if self._entropy is not None
            else {}
        )

    def aim(self) -> Aim | None:
        """What the rule aims at, after `observe`; None without it."""
        return self._entropy.aim() if self._entropy is not None else None

    def state_dict(self) -> dict[str, Any]:
        return self._entropy.state_dict() if self._entropy is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint; the rule begins anew if it was off there."""
        if self._entropy is not None and state:
            self._entropy.load_state_dict(state)
