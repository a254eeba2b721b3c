"""The schedules of FlexEC (arXiv:2602.09782): which clip width moves with the probability, when.

The widths themselves are `objectives/flexec.py`; here are the weights of the two moving ones, with
k = step - 1 updates of the run's T steps done and lambda = 1 - 2k/T:

           k <= T/2                       k > T/2
    id     up lambda,      low 0          up 0,  low 1 + lambda       raise, then lower the entropy
    did    up 1 - lambda,  low 0          up 1,  low 1 + lambda
    od     up s,           low 1 - s      s: the entropy fell too far, and has not recovered yet
    raise, lower           up 1, low 0; up 0, low 1: the two arms that do not move

[source] Schedules and the shape of the widths: the authors' own text with all formulas.
[reconstructed] What they do not say: where H_init is read, where s starts, and first halves of
another share. `ramp=grow` is a third party's reading.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from isentropic.checks import check_choice, check_range
from isentropic.methods.control.controller import Aim, Effects, EntropyController, check_steers

NEARLY_WHOLE = 1e-9  # steps
SCHEDULES = ("id", "did", "od", "raise", "lower")


@dataclass(frozen=True, kw_only=True)
class FlexEcSchedule:
    """Weights of the moving clip widths over the run; values live in conf/steering/.

    Attributes:
        schedule: id | did | od | raise | lower, see the module.
        total_steps: T, the planned steps of the run.
        first_share: share of T that the first phase of id and did takes.
        ramp: fade: the second phase starts at the full width, as published | grow: it ends there.
        start_raising: s of od until the entropy first crosses a line; it is H_init at the start, which
            crosses none.
        start_entropy: H_init of od, nats per token; null: that of the first step.
        floor_share: lowest entropy of od, a share of H_init.
    """

    name: str
    schedule: str
    total_steps: int
    first_share: float
    ramp: str
    start_raising: bool
    start_entropy: float | None
    floor_share: float
    actuators: ClassVar[Mapping[str, Any]] = {}
    fates: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_choice("steering.schedule", self.schedule, SCHEDULES)
        check_choice("steering.ramp", self.ramp, ("fade", "grow"))
        check_range("steering.total_steps", self.total_steps, at_least=1)
        check_range("steering.first_share", self.first_share, above=0, below=1)
        check_range("steering.floor_share", self.floor_share, at_least=0, below=1)
        if self.start_entropy is not None:
            check_range("steering.start_entropy", self.start_entropy, above=0)

    def build(self, start: Mapping[str, float | None]) -> "FlexEc":
        check_steers("flexec", ("up_weight", "low_weight"), start)
        return FlexEc(self)

    def weights(self, step: int) -> tuple[float, float]:
        """Weights (up, low) of the schedules that do not look at the entropy, at `step` from 1."""
        if self.schedule in ("raise", "lower"):
            return (1.0, 0.0) if self.schedule == "raise" else (0.0, 1.0)
        done = min(step - 1, self.total_steps)
        turn = self.first_share * self.total_steps
        if abs(turn - round(turn)) < NEARLY_WHOLE:
            turn = round(turn)  # 0.29 * 100 is 28.999999999999996, but step 29 is the turn
        if done <= turn:
            left = 1 - done / turn
            return (left if self.schedule == "id" else 1 - left), 0.0
        left = 1 - (done - turn) / (self.total_steps - turn)
        low = left if self.ramp == "fade" else 1 - left
        return (0.0 if self.schedule == "id" else 1.0), low


class FlexEc(EntropyController):
    """Gives the two weights each step; od remembers H_init and which way it pushes."""

    def __init__(self, config: FlexEcSchedule) -> None:
        self._config = config
        self._start = config.start_entropy
        self._raising = config.start_raising

    def sense(self, step: int, entropy: float) -> None:
        """Turns od around: up at the floor, down once above the line that falls to the floor."""
        if self._config.schedule != "od" or not math.isfinite(entropy):
            return
        if self._start is None:
            self._start = entropy
        floor, line = self._edges(step)
        if entropy <= floor:
            self._raising = True
        elif entropy > line:
            self._raising = False

    def values(self, step: int) -> dict[str, float]:
        up, low = self._weights(step)
        return {"up_weight": up, "low_weight": low}

    def observe(self, step: int, entropy: float, effects: Effects) -> dict[str, float]:
        up, low = self._weights(step)
        return {"flexec/up_weight": up, "flexec/low_weight": low}

    def aim(self, step: int) -> Aim | None:
        """The band of od; the other schedules aim at no entropy."""
        if self._config.schedule != "od":
            return None
        low, high = self._edges(step) if self._start is not None else (None, None)
        return Aim(low=low, high=high, mode=float(self._raising))

    def state_dict(self) -> dict[str, Any]:
        return {"start": self._start, "raising": self._raising}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._start, self._raising = state["start"], bool(state["raising"])

    def _weights(self, step: int) -> tuple[float, float]:
        if self._config.schedule == "od":
            return float(self._raising), float(not self._raising)
        return self._config.weights(step)

    def _edges(self, step: int) -> tuple[float, float]:
        """tau_low and tau_high of a step, in nats per token."""
        floor = self._config.floor_share * self._start
        left = 1 - min(step - 1, self._config.total_steps) / self._config.total_steps
        return floor, floor + (self._start - floor) * left
