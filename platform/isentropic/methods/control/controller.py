"""What an entropy controller may do within a step; it does nothing unless it says otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from isentropic.records import Group, RolloutKey, Sample, TokenScores


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The rollouts of a step as a controller leaves them."""

    advantages: Mapping[RolloutKey, float]
    verdicts: Mapping[RolloutKey, str]  # a key of `fates.FATES` each
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """What a controller wanted of the step's entropy, and what it did about it."""

    low: float | None  # nats per token; a single target has low == high, None is no edge
    high: float | None
    mode: float = 0.0  # which way it pushes; a change of it is a switch
    saturated: bool = False  # it could not push as hard as its rule asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What a step's updates did to the entropy, by its books; all NaN if it was not measured."""

    change: float  # nats, of the step's own contexts
    rest: float  # nats that no token of a steered coefficient made
    slopes: Mapping[str, float]  # nats per unit of each, a token's whole effect through momentum


class EntropyController:
    """Moves nothing. A controller overrides what it moves.

    Within a step the order is `sense`, `choose`, `push`, `values`, the updates, `observe`. The
    state is a few numbers, equal after a resume.
    """

    fates: ClassVar[tuple[str, ...]] = ()  # that `choose` can give

    def sense(self, step: int, entropy: float) -> None:
        """Takes the step's entropy/mean, of the policy before the step's first update.

        Args:
            step: from 1.
            entropy: nats per token, first wave, before any filter; not finite if nothing was drawn.
        """

    def choose(
        self,
        groups: Sequence[Group],
        advantages: Mapping[RolloutKey, float],
        verdicts: Mapping[RolloutKey, str],
        scores: Mapping[RolloutKey, TokenScores],
    ) -> Choice:
        """Changes rollout advantages, or drops rollouts that the filter passed."""
        return Choice(advantages=advantages, verdicts=verdicts, metrics={})

    def push(self, samples: Sequence[Sample]) -> list[Sample]:
        """Changes the token advantages of what is about to be trained on."""
        return list(samples)

    def values(self, step: int) -> dict[str, float]:
        """Coefficients of the objective for the updates of `step`."""
        return {}

    def observe(self, step: int, entropy: float, effects: Effects) -> dict[str, float]:
        """Takes what the step's updates did; metrics of the controller."""
        return {}

    def aim(self, step: int) -> Aim | None:
        """What it aims at in `step`, after `observe`; None if it follows no entropy."""
        return None

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert not state, f"a checkpoint holds state of another steering slot: {sorted(state)}"


@dataclass(frozen=True, kw_only=True)
class NoSteering(EntropyController):
    """Leaves the coefficients as the config has them, and keeps no state."""

    name: str
    actuators: ClassVar[Mapping[str, Any]] = {}

    def build(self, start: Mapping[str, float | None]) -> "NoSteering":
        return self


def check_steers(name: str, needed: Sequence[str], start: Mapping[str, float | None]) -> None:
    """Refuses a controller whose coefficients the objective does not have.

    Args:
        name: of the controller.
        needed: coefficients that it sets.
        start: the objective's coefficients at step 1.

    Raises:
        ValueError: naming them, and what the objective has.
    """
    absent = [coefficient for coefficient in needed if start.get(coefficient) is None]
    if absent:
        raise ValueError(
            f"steering={name} sets {', '.join(absent)}, which the objective does not have or has "
            f"as null. It has {', '.join(start)}. Choose method={name} or another steering."
        )
