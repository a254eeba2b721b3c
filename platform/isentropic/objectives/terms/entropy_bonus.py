"""Entropy bonus, with a fixed or an adaptive coefficient (Skywork-OR1, arXiv:2505.22312)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from isentropic.checks import check_range
from isentropic.objectives.loss.schedule import check_coefficient, resolve
from isentropic.objectives.terms.term import Term


@dataclass(frozen=True, kw_only=True)
class AdaptiveEntropyConfig:
    """The rule of Skywork-OR1; `methods.entropy_coefficient` follows it."""

    target: float  # nats per token; the bonus is on below it
    step_size: float  # change of the coefficient per step
    max: float  # largest coefficient
    start: float  # first coefficient

    def __post_init__(self) -> None:
        key = "terms.entropy_bonus.adaptive"
        hint = "It is an entropy in nats per token."
        check_range(f"{key}.target", self.target, above=0, hint=hint)
        check_range(f"{key}.step_size", self.step_size, above=0)
        check_range(f"{key}.max", self.max, above=0)
        check_range(f"{key}.start", self.start, at_least=0, at_most=self.max)


@dataclass(frozen=True, kw_only=True)
class EntropyBonusTerm(Term):
    """-coef * H, with the gradient through the exact entropy; one of the two keys is set."""

    needs = frozenset({"entropy"})

    coef: Any = None
    adaptive: AdaptiveEntropyConfig | None = None

    def __post_init__(self) -> None:
        if (self.coef is None) == (self.adaptive is None):
            rule = "null" if self.adaptive is None else "a rule"
            raise ValueError(
                f"terms.entropy_bonus needs either coef or adaptive, got coef={self.coef!r} and "
                f"adaptive={rule}. Set one of them, and leave out the other or set it to null."
            )
        check_coefficient("terms.entropy_bonus.coef", self.coef, optional=True)

    def at(self, step: int) -> float:
        """The coefficient at `step` (from 1); an adaptive one is 0 until its rule sets it."""
        return 0.0 if self.coef is None else resolve(self.coef, step)

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        """[N] -H in nats."""
        return -fields["entropy"]

    def logged(self, value: Tensor, coefficient: float) -> Tensor:
        """[N] coef * H: what the bonus adds to the reward of each token's state."""
        return coefficient * -value.detach()
