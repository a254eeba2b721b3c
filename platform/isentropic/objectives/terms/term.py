"""What every added loss term has."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from isentropic.objectives.loss.schedule import resolve


@dataclass(frozen=True, kw_only=True)
class Term(ABC):
    """A loss added to the policy's: the sum over the tokens of coef * weight * value."""

    needs: ClassVar[frozenset[str]] = frozenset()  # token fields that `value` reads
    weight: ClassVar[str] = "loss_weight"  # the column that weighs it

    coef: Any  # may be a schedule

    def at(self, step: int) -> float:
        """The coefficient at `step` (from 1)."""
        return resolve(self.coef, step)

    @abstractmethod
    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        """[N] the term at each token, to be minimised; carries the gradient."""

    def logged(self, value: Tensor, coefficient: float) -> Tensor | None:
        """[N] what is logged as terms/<name>; None logs nothing."""
        return value.detach()
