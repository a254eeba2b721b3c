"""How an objective is described: its function, its coefficients, the token fields it names."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar

from torch import Tensor

from isentropic.checks import check_choice
from isentropic.objectives.loss.schedule import check_coefficient, resolve
from isentropic.objectives.loss.token_loss import TokenLoss

# What a function may name among its keywords: the columns of `isentropic.columns` but the two
# that are applied outside of it (advantage, token_weight), and what the model gives.
TOKEN_FIELDS = (
    "logprob",
    "old_logprob",
    "rollout_logprob",
    "ref_logprob",
    "entropy",
    "old_entropy",
    "sensitivity",
    "sum_p2",
    "sum_s2",
    "sequence_id",
    "is_teacher",
    "reward",
)


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What every objective's config has.

    A subclass adds `function`, and the function's coefficients as fields of the same names.
    """

    function: ClassVar[Callable[..., TokenLoss]]  # of log_ratio, advantage and keywords
    needs_minibatch: ClassVar[bool] = False  # takes statistics over a whole minibatch

    name: str  # key in OBJECTIVES
    ratio: str  # token | sequence (GSPO's)

    def __post_init__(self) -> None:
        check_choice("objective.ratio", self.ratio, ("token", "sequence"))

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of the function's coefficients."""
        others = ("name", "ratio", "base")
        return tuple(field.name for field in fields(self) if field.name not in others)

    @property
    def token_fields(self) -> frozenset[str]:
        """Token fields that the function names among its keywords."""
        return frozenset(TOKEN_FIELDS) & _keywords(self.function)

    def at(self, step: int) -> dict[str, float | None]:
        """The coefficients at `step` (from 1), schedules resolved."""
        return {name: resolve(getattr(self, name), step) for name in self.coefficients}

    def inputs(
        self, coefficients: Mapping[str, float | None], fields: Mapping[str, Tensor], seed: int
    ) -> dict[str, Any]:
        """Gather the function's keywords: coefficients, token fields, the seed if it names it."""
        named = {name: coefficients[name] for name in self.coefficients}
        named |= {name: fields[name] for name in TOKEN_FIELDS if name in self.token_fields}
        return named | ({"seed": seed} if "seed" in _keywords(self.function) else {})


@cache
def _keywords(function: Callable[..., TokenLoss]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def check_clip(config: Any) -> None:
    """Check `clip_low` and `clip_high`: widths on either side of ratio 1, null for no bound."""
    check_coefficient(
        "objective.clip_low",
        config.clip_low,
        optional=True,
        above=0,
        below=1,
        hint="It is a distance below ratio 1, not a ratio: for a bound at 0.8 write 0.2; "
        "for none write null.",
    )
    check_coefficient(
        "objective.clip_high",
        config.clip_high,
        optional=True,
        above=0,
        hint="It is a distance above ratio 1, not a ratio: for a bound at 1.28 write 0.28; "
        "for none write null.",
    )


def check_dual_clip(config: Any) -> None:
    """Check `dual_clip`: a ratio above 1, null for off."""
    check_coefficient(
        "objective.dual_clip",
        config.dual_clip,
        optional=True,
        above=1,
        hint="It is the ratio beyond which a punished token is silent, such as 3 or 10; "
        "null is off.",
    )


def lower_bound(clip_low: float | None) -> float | None:
    """1 - clip_low, or None."""
    return None if clip_low is None else 1 - clip_low


def upper_bound(clip_high: float | None) -> float | None:
    """1 + clip_high, or None."""
    return None if clip_high is None else 1 + clip_high
