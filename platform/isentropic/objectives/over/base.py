"""An objective that is put over another one: what every such config shares."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from isentropic.objectives.loss import ObjectiveConfig


@dataclass(frozen=True, kw_only=True)
class OverConfig(ObjectiveConfig):
    """An objective over `base`, another objective's whole config.

    Its function takes `base` among its keywords: the base's function, with the base's own
    coefficients and token fields given, so that it is called with log_ratio and advantage.
    """

    choices: ClassVar[tuple[str, ...]] = ()  # fields that are keywords of the function, not numbers

    base: ObjectiveConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base.ratio != self.ratio:
            raise ValueError(
                f"objective.ratio={self.ratio} with objective.base.ratio={self.base.ratio}: "
                f"they must be equal. Set objective.ratio={self.base.ratio}, or choose another base: "
                "objective@objective.base=<another objective>."
            )
        # The coefficients of a step stand in one dict, so a name must mean one thing in it.
        shared = sorted(set(super().coefficients) & self.base.at(1).keys())
        if shared:
            raise ValueError(
                f"objective.base.name={self.base.name} has {', '.join(shared)} as "
                f"{self.name} has, and one objective cannot stand over itself. Choose another base."
            )

    @property
    def needs_minibatch(self) -> bool:
        """Whether the base takes statistics over a whole minibatch."""
        return self.base.needs_minibatch

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of the function's coefficients, without those of the base."""
        return tuple(name for name in super().coefficients if name not in self.choices)

    @property
    def token_fields(self) -> frozenset[str]:
        """Token fields that the function and its base name."""
        return super().token_fields | self.base.token_fields

    def at(self, step: int) -> dict[str, float | None]:
        """The coefficients of both at `step` (from 1)."""
        return self.base.at(step) | super().at(step)

    def inputs(
        self, coefficients: Mapping[str, float | None], fields: Mapping[str, Tensor], seed: int
    ) -> dict[str, Any]:
        """Gather the function's keyword arguments, `base` among them."""
        base = partial(self.base.function, **self.base.inputs(coefficients, fields, seed))
        chosen = {name: getattr(self, name) for name in self.choices}
        return super().inputs(coefficients, fields, seed) | chosen | {"base": base}
