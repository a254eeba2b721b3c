"""EntroPIC (arXiv:2511.15248): proportional-integral control of the balance of the two signs.

    e = Hbar - h,   alpha = clip(Kp e + Ki I, -1, 1),   I <- I + e
    A <- A + alpha |A|    on all tokens, or on those that the policy was confident of (p > p_high)

With alpha > 0 the entropy is too high: rewarded responses count more, punished ones less.
[source] Released scripts and excerpts of the code. `tokens=confident` is the code's form, an extra
term that passes no clip there; here it is part of the advantage, divided by all tokens.
[reconstructed] The integral does not grow while alpha is at its limit; p_high was not seen.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from isentropic.checks import check_choice, check_range
from isentropic.methods.advantages import float_dtype
from isentropic.methods.control.controller import Aim, Effects, EntropyController
from isentropic.objectives.loss.schedule import check_coefficient, resolve
from isentropic.records import Sample


@dataclass(frozen=True, kw_only=True)
class EntropicConfig:
    """Gains, target and reach of the controller; values live in conf/steering/."""

    name: str
    target: Any  # h: nats per token, a number or a schedule
    proportional: float  # Kp, per nat
    integral: float  # Ki, per nat and step
    tokens: str  # all | confident
    p_high: float  # confident: old probability above it

    actuators: ClassVar[Mapping[str, Any]] = {}
    fates: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_coefficient("steering.target", self.target, at_least=0)
        check_range("steering.proportional", self.proportional, at_least=0)
        check_range("steering.integral", self.integral, at_least=0)
        check_choice("steering.tokens", self.tokens, ("all", "confident"))
        check_range("steering.p_high", self.p_high, at_least=0, below=1)

    def build(self, start: Mapping[str, float | None]) -> "Entropic":
        return Entropic(self)


class Entropic(EntropyController):
    """Its state is the integral, and the alpha of the step under way."""

    def __init__(self, config: EntropicConfig) -> None:
        self._config = config
        self._integral = 0.0
        self._alpha = 0.0

    def sense(self, step: int, entropy: float) -> None:
        """Chooses alpha for this step, then adds the error to the integral."""
        if not math.isfinite(entropy):
            return
        error = entropy - resolve(self._config.target, step)
        wanted = self._config.proportional * error + self._config.integral * self._integral
        self._alpha = min(max(wanted, -1.0), 1.0)
        # At a limit it may only go back: else it would keep alpha there for good.
        if abs(wanted) < 1 or error * wanted < 0:
            self._integral += error

    def push(self, samples: Sequence[Sample]) -> list[Sample]:
        if self._alpha == 0:
            return list(samples)
        return [replace(sample, advantage=self._pushed(sample)) for sample in samples]

    def _pushed(self, sample: Sample) -> np.ndarray:
        """[N] A + alpha |A|, on the chosen tokens."""
        advantage = sample.advantage
        added = self._alpha * np.abs(advantage)
        if self._config.tokens == "confident":
            added = np.where(np.exp(sample.old.logprob) > self._config.p_high, added, 0.0)
        return (advantage + added).astype(float_dtype(advantage))

    def observe(self, step: int, entropy: float, effects: Effects) -> dict[str, float]:
        return {"entropic/alpha": self._alpha, "entropic/integral": self._integral}

    def aim(self, step: int) -> Aim:
        target = resolve(self._config.target, step)
        sign = float(np.sign(self._alpha))
        return Aim(low=target, high=target, mode=sign, saturated=abs(self._alpha) == 1)

    def state_dict(self) -> dict[str, Any]:
        return {"integral": self._integral, "alpha": self._alpha}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._integral, self._alpha = float(state["integral"]), float(state["alpha"])
