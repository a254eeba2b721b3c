"""An upper clip bound that widens while the entropy is below its target (MAI-Thinking-1, 2026).

    r in [1 - e, 1/(1 - e) + k],    k <- clip(k + d sign(h - Hbar), 0, k_max) after each step

[source] A reimplementer's notes; the report's own text was not available.
[reconstructed] Here k moves once per step, on entropy/mean of the step; they move it after each
optimizer step, on an importance-weighted entropy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from isentropic.checks import check_range
from isentropic.methods.control.controller import Aim, Effects, EntropyController, check_steers
from isentropic.objectives.loss.schedule import check_coefficient, resolve


@dataclass(frozen=True, kw_only=True)
class SignBoundConfig:
    """Both clip widths of the objective, from one epsilon and k; values live in conf/steering/."""

    name: str
    target: Any  # h: nats per token, a number or a schedule
    epsilon: float  # e: the lower width; the upper one starts at e / (1 - e)
    change: float  # d: added to the upper width, or taken from it, per step
    most: float  # k_max: the most that is added

    actuators: ClassVar[Mapping[str, Any]] = {}
    fates: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_coefficient("steering.target", self.target, at_least=0)
        check_range("steering.epsilon", self.epsilon, above=0, below=1)
        check_range("steering.change", self.change, above=0)
        check_range("steering.most", self.most, above=0)

    def build(self, start: Mapping[str, float | None]) -> "SignBound":
        check_steers("sign_bound", ("clip_low", "clip_high"), start)
        return SignBound(self)


class SignBound(EntropyController):
    """Its whole state is k."""

    def __init__(self, config: SignBoundConfig) -> None:
        self._config = config
        self._added = 0.0
        self._saturated = False
        self._sign = 0

    def sense(self, step: int, entropy: float) -> None:
        """Moves k by what the steps before this one did; the first step has k = 0."""
        if step == 1 or not math.isfinite(entropy):
            return
        target = resolve(self._config.target, step)
        self._sign = (target > entropy) - (target < entropy)
        wanted = self._added + self._config.change * self._sign
        self._added = min(max(wanted, 0.0), self._config.most)
        self._saturated = wanted != self._added

    def values(self, step: int) -> dict[str, float]:
        epsilon = self._config.epsilon
        return {"clip_low": epsilon, "clip_high": epsilon / (1 - epsilon) + self._added}

    def observe(self, step: int, entropy: float, effects: Effects) -> dict[str, float]:
        return {"sign_bound/added": self._added}

    def aim(self, step: int) -> Aim:
        target = resolve(self._config.target, step)
        return Aim(low=target, high=target, mode=float(self._sign), saturated=self._saturated)

    def state_dict(self) -> dict[str, Any]:
        return {"added": self._added, "sign": self._sign, "saturated": self._saturated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._added, self._sign = float(state["added"]), int(state["sign"])
        self._saturated = bool(state["saturated"])
