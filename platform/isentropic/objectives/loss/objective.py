"""How an objective is described: its function, its config, and what the learner has to give it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from isentropic.checks import check_choice
from isentropic.objectives.loss.schedule import check_coefficient, resolve
from isentropic.objectives.loss.token_loss import TokenLoss

TOKEN_FIELDS = (
    "logprob",
    "old_logprob",
    "rollout_logprob",
    "ref_logprob",
    "entropy",
    "old_entropy",
    "sensitivity",
    "sequence_id",
    "is_teacher",
    "reward",
)


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What every objective's config has; a subclass adds the coefficients of its function, under the same names."""

    name: str  # key in OBJECTIVES
    ratio: str  # token | sequence (GSPO's)

    def __post_init__(self) -> None:
        check_choice("objective.ratio", self.ratio, ("token", "sequence"))

    def at(self, step: int) -> dict[str, float | None]:
        """The coefficients at `step` (from 1), schedules resolved: the function's keyword arguments."""
        names = [field.name for field in fields(self) if field.name not in ("name", "ratio")]
        return {name: resolve(getattr(self, name), step) for name in names}

    def options(self) -> dict[str, Any]:
        """Keyword arguments of the function that are not numbers."""
        return {}

    def bases(self) -> tuple["ObjectiveConfig", ...]:
        """Objectives that this one is put over."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Objective:
    """An entry of OBJECTIVES."""

    function: Callable[..., TokenLoss]
    config: type[ObjectiveConfig]
    needs_minibatch: bool = (
        False  # uses statistics over the tokens it is given: it must be given a whole minibatch
    )
    own_ratio: bool = False  # forms the sequence ratio itself, from the token one

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """Token fields that the function names among its arguments."""
        names = inspect.signature(self.function).parameters
        return tuple(name for name in TOKEN_FIELDS if name in names)

    @cached_property
    def takes_seed(self) -> bool:
        return "seed" in inspect.signature(self.function).parameters


def check_clip(config: Any) -> None:
    """`clip_low` and `clip_high` of an objective: widths on either side of ratio 1, null for no bound."""
    check_coefficient(
        "objective.clip_low",
        config.clip_low,
        optional=True,
        above=0,
        below=1,
        hint="It is a distance below ratio 1, not a ratio: for a bound at 0.8 write 0.2; for none write null.",
    )
    check_coefficient(
        "objective.clip_high",
        config.clip_high,
        optional=True,
        above=0,
        hint="It is a distance above ratio 1, not a ratio: for a bound at 1.28 write 0.28; for none write null.",
    )


def check_dual_clip(config: Any) -> None:
    """`dual_clip`: a ratio above 1, null for off."""
    check_coefficient(
        "objective.dual_clip",
        config.dual_clip,
        optional=True,
        above=1,
        hint="It is the ratio beyond which a punished token is silent, such as 3 or 10; null is off.",
    )


def lower_bound(clip_low: float | None) -> float | None:
    """1 - clip_low, or None."""
    return None if clip_low is None else 1 - clip_low


def upper_bound(clip_high: float | None) -> float | None:
    """1 + clip_high, or None."""
    return None if clip_high is None else 1 + clip_high
