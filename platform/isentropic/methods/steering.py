"""Steers coefficients by measured books: each step's values make the entropy follow a target.

The entropy change of a step is linear in every coefficient that enters the loss linearly. The books
of a measured step give, in nats per step, what each such coefficient (an actuator) did per unit of
it, and what all the rest did:

    change = rest + sum_i value_i * slope_i

Rest and slopes are noisy from step to step and are smoothed. So is the entropy: that of a step is
the mean over the few prompts that it drew. But the books know what each step changed, so the level
is an estimate carried on by them and corrected by what is measured (an observer):

    level <- level + observer_gain * (entropy - level)      before the step's updates
    level <- level + change                                 after them

The values for the next step are those nearest to the present ones, inside their bounds, at which
the predicted change closes the gap from the level to the target within `horizon` steps.
[reconstructed] The solver, the observer, the smoothing and the horizon are ours; no paper has this
controller.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from isentropic.checks import check_choice, check_range
from isentropic.methods.control.controller import Aim, Effects, EntropyController
from isentropic.objectives.loss.schedule import check_coefficient, resolve

TINY = 1e-12  # nats per step and unit: an actuator below it has no authority
BISECTIONS = 80


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The interval that an actuator's value stays in."""

    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low

    def furthest_from(self, value: float) -> float:
        """Returns the distance of a value from the bound that is further away."""
        return max(self.high - value, value - self.low)


@dataclass(frozen=True, kw_only=True)
class SteeringConfig:
    """Which coefficients follow which target; values live in conf/steering/.

    Attributes:
        target: entropy to follow, in nats per token: a number or a schedule over the steps; null
            holds the level of `from_step`.
        from_step: the first step whose coefficients are steered.
        horizon: steps in which the gap to the target is to be closed.
        smoothing: weight of the newest measured step in the running means, in (0, 1].
        observer_gain: weight of the newest entropy/mean in the level, in (0, 1]; 1 believes it.
        actuators: coefficient of the objective, or `entropy_bonus` -> [low, high]; null takes one
            out of a preset.
    """

    name: str
    target: Any
    from_step: int
    horizon: float
    smoothing: float
    observer_gain: float
    actuators: dict[str, Any]
    fates: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.target is not None:
            check_coefficient("steering.target", self.target, at_least=0)
        check_range("steering.from_step", self.from_step, at_least=1)
        check_range("steering.horizon", self.horizon, at_least=1)
        check_range("steering.smoothing", self.smoothing, above=0, at_most=1)
        check_range("steering.observer_gain", self.observer_gain, above=0, at_most=1)
        present = {name: bounds for name, bounds in self.actuators.items() if bounds is not None}
        object.__setattr__(self, "actuators", present)
        if not self.actuators:
            raise ValueError(
                "steering.actuators is empty: nothing could be steered. Name a coefficient and its "
                "bounds: {beta1: [0.0, 1.0]}."
            )
        for name, bounds in self.actuators.items():
            check_choice("steering.actuators", name, ACTUATORS)
            if not isinstance(bounds, list | tuple) or len(bounds) != 2:
                raise ValueError(f"steering.actuators.{name} must be [low, high], got {bounds!r}.")
            low, high = bounds
            check_range(f"steering.actuators.{name}, low", low, at_least=0)
            check_range(f"steering.actuators.{name}, high", high, above=low)

    def build(self, start: Mapping[str, float | None]) -> "Steering":
        return Steering(self, start)


# Coefficients in which the loss is linear: of the objective, and of the added terms.
ACTUATORS = ("beta1", "beta2", "entropy_bonus")


def first_coefficients(config: Any) -> dict[str, float | None]:
    """Returns the coefficients of the objective and of the added terms at step 1."""
    return config.objective.at(1) | config.terms.at(1)


def nearest_values(
    present: Mapping[str, float],
    slopes: Mapping[str, float],
    bounds: Mapping[str, Bounds],
    *,
    rest: float,
    change: float,
) -> dict[str, float]:
    """Returns the values inside `bounds` whose predicted change is nearest to `change`.

    Among several such values it takes those nearest to `present`, in units of the bounds' widths
    w_i (a beta and the coefficient of an entropy bonus have different sizes):

        minimise (rest + sum_i x_i slope_i - change)^2 over the box,
        then sum_i ((x_i - present_i) / w_i)^2

    The solution lies on x_i = clip(present_i + lambda w_i^2 slope_i): the prediction rises with
    lambda, so bisection finds it. If no actuator has authority the present values stay.
    """
    if max((abs(slope) for slope in slopes.values()), default=0.0) < TINY:
        return dict(present)
    gains = {name: bounds[name].width ** 2 * slope for name, slope in slopes.items()}

    def at(factor: float) -> dict[str, float]:
        return {
            name: min(max(value + factor * gains[name], bounds[name].low), bounds[name].high)
            for name, value in present.items()
        }

    def missed(factor: float) -> float:
        return rest + sum(value * slopes[name] for name, value in at(factor).items()) - change

    # Beyond this factor every actuator with authority lies on a bound, also one that began outside.
    reach = max(
        max(bounds[name].width + abs(present[name]), bounds[name].furthest_from(present[name]))
        / abs(gain)
        for name, gain in gains.items()
        if abs(slopes[name]) >= TINY
    )
    low, high = -2 * reach, 2 * reach
    if missed(low) >= 0 or missed(high) <= 0:
        return at(low if missed(low) >= 0 else high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if missed(middle) > 0 else (middle, high)
    return at((low + high) / 2)


class Steering(EntropyController):
    """The controller of one run. Its whole state is in `state_dict`.

    Each step: `values(step)` before its updates, then `observe` with what was measured.
    """

    def __init__(self, config: SteeringConfig, start: Mapping[str, float | None]) -> None:
        """Begins at `start`, the coefficients of the config at step 1."""
        self._config = config
        self._bounds = {
            name: Bounds(low=float(low), high=float(high))
            for name, (low, high) in config.actuators.items()
        }
        absent = [name for name in self._bounds if start.get(name) is None]
        if absent:
            raise ValueError(
                f"steering.actuators names {', '.join(absent)}, which neither the objective nor the "
                f"added terms have. They have {', '.join(start)}. Choose objective=ce_gppo for betas, "
                "'terms=entropy_bonus' for the bonus, or other actuators."
            )
        self._values = {name: float(start[name]) for name in self._bounds}
        self._rest = math.nan
        self._slopes = dict.fromkeys(self._bounds, math.nan)
        self._held = math.nan  # the level to hold if the config gives no target
        self._level = math.nan  # of the entropy before the next step's updates, in nats per token
        self._out_of_reach = False

    def values(self, step: int) -> dict[str, float]:
        """Returns the actuators' coefficients for the updates of `step`, from `from_step` on."""
        return dict(self._values) if step >= self._config.from_step else {}

    def target(self, step: int) -> float:
        """Returns the entropy in nats per token that `step` should have; NaN if not known yet."""
        given = self._config.target
        return self._held if given is None else float(resolve(given, step))

    def observe(self, step: int, entropy: float, effects: Effects) -> dict[str, float]:
        """Takes what a step measured, and chooses the values of the next one.

        Args:
            step: the step whose updates were measured.
            entropy: its entropy/mean under the policy before its updates; NaN if nothing was drawn.
            effects: what its updates did.

        Returns:
            Metrics under steer/.
        """
        level = self._corrected(entropy)
        if self._config.target is None and step >= self._config.from_step:
            self._held = level if math.isnan(self._held) else self._held
        if math.isfinite(effects.rest):
            self._smooth(effects.rest, effects.slopes)
        measured = math.isfinite(effects.change)
        self._level = level + (effects.change if measured else self._predicted)
        # The values chosen now act on the updates of the next step, whose effect shows one step
        # later: at step + 2.
        gap = self.target(step + 2) - self._level
        steers = step + 1 >= self._config.from_step and math.isfinite(gap)
        idle = self._authority < TINY
        if steers and not idle:
            self._choose(gap)
        self._out_of_reach = steers and not idle and self._saturated(gap)
        metrics = {f"steer/{name}": value for name, value in self._values.items()}
        metrics |= {f"steer/{name}_slope": value for name, value in self._slopes.items()}
        return metrics | {
            "steer/target": self.target(step),
            "steer/gap": entropy - self.target(step),
            "steer/level": level,
            "steer/rest": self._rest,
            "steer/idle": float(steers and idle),
            "steer/saturated": float(self._out_of_reach),
        }

    def _corrected(self, entropy: float) -> float:
        """Returns the level before this step's updates, with its entropy taken into account."""
        if math.isnan(self._level):
            return entropy
        if not math.isfinite(entropy):
            return self._level
        return self._level + self._config.observer_gain * (entropy - self._level)

    def aim(self, step: int) -> Aim:
        target = self.target(step)
        return Aim(low=target, high=target, saturated=self._out_of_reach)

    def _choose(self, gap: float) -> None:
        """Sets the values that close `gap` nats within the horizon, as far as the bounds allow."""
        self._values = nearest_values(
            self._values,
            self._slopes,
            self._bounds,
            rest=self._rest,
            change=gap / self._config.horizon,
        )

    @property
    def _predicted(self) -> float:
        """Change of a step with the present values, in nats; 0 before the first measured step."""
        change = self._rest + sum(
            value * self._slopes[name] for name, value in self._values.items()
        )
        return change if math.isfinite(change) else 0.0

    @property
    def _authority(self) -> float:
        """Nats per unit of the strongest actuator; 0 before the first measured step."""
        return max(
            (abs(slope) for slope in self._slopes.values() if math.isfinite(slope)), default=0.0
        )

    def _saturated(self, gap: float) -> bool:
        """Returns True if the target is out of reach: even the best values in bounds miss it."""
        missed = self._predicted - gap / self._config.horizon
        return abs(missed) > 1e-9

    def _smooth(self, rest: float, slopes: Mapping[str, float]) -> None:
        """Takes a measured step into the running means."""
        share = self._config.smoothing
        self._rest = _mixed(self._rest, rest, share)
        self._slopes = {name: _mixed(self._slopes[name], slopes[name], share) for name in slopes}

    def state_dict(self) -> dict[str, Any]:
        return {
            "values": dict(self._values),
            "rest": self._rest,
            "slopes": dict(self._slopes),
            "held": self._held,
            "level": self._level,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._values = {name: float(value) for name, value in state["values"].items()}
        self._rest = float(state["rest"])
        self._slopes = {name: float(value) for name, value in state["slopes"].items()}
        self._held = float(state["held"])
        # Those of version 0.1 have no level: they believe the next entropy.
        self._level = float(state.get("level", math.nan))


def _mixed(before: float, new: float, share: float) -> float:
    """Returns the running mean; it starts at the first value that was measured."""
    return new if math.isnan(before) else (1 - share) * before + share * new
