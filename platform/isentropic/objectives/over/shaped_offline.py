"""Teacher tokens with a shaped probability instead of a ratio: LUFFY's way, and one reading of OGER."""

import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from isentropic import (
    objectives,
)  # read when called: the base is looked up by name, and this file is in the list
from isentropic.checks import check_choice
from isentropic.objectives.loss.objective import ObjectiveConfig
from isentropic.objectives.loss.schedule import check_coefficient, resolve
from isentropic.objectives.loss.token_loss import TokenLoss


def shaped_offline(
    log_ratio: Tensor,
    advantage: Tensor,
    *,
    logprob: Tensor,
    is_teacher: Tensor,
    offline_shape: float,
    online: str = "clip",
    **online_inputs: Any,
) -> TokenLoss:
    """Policy shaping on teacher tokens (LUFFY, arXiv:2504.14945), another objective on the policy's own.

        loss_t = -p / (p + offline_shape) * A_t    on teacher tokens, p = exp(logprob_t)
        loss_t = online loss_t                     elsewhere

    No ratio and no clip on teacher tokens. Their weight on grad log pi is s p / (p + s)^2 * A with s the shape: largest
    at p = s, so that tokens which the policy finds unlikely are still learned.

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient.
        advantage: [N] in reward units, no gradient.
        logprob: [N] nats under the current weights; carries the gradient.
        is_teacher: [N] bool.
        offline_shape: > 0; 0.1 in LUFFY.
        online: name of the objective, and `online_inputs` its coefficients and token fields.
    """
    objective = objectives.OBJECTIVES[online]
    own = {"logprob": logprob, "is_teacher": is_teacher}
    online_inputs |= {name: own[name] for name in objective.fields if name in own}
    loss, metrics = objective.function(log_ratio, advantage, **online_inputs)
    shaped = (
        -torch.sigmoid(logprob - math.log(offline_shape)) * advantage
    )  # p / (p + s), safe for any logprob
    metrics = {
        name: torch.where(is_teacher, 0.0, values) if name.startswith("clip/") else values
        for name, values in metrics.items()
    }
    return TokenLoss(torch.where(is_teacher, shaped, loss), metrics)


@dataclass(frozen=True, kw_only=True)
class ShapedOfflineConfig(ObjectiveConfig):
    """The constant of `objectives.shaped_offline`, and the whole config of the objective beside it."""

    offline_shape: Any
    base: dict[str, Any]  # name, ratio and coefficients of another objective

    def __post_init__(self) -> None:
        super().__post_init__()
        check_coefficient("objective.offline_shape", self.offline_shape, above=0)
        if self.base_config.ratio != self.ratio and not self._own_ratio:
            raise ValueError(
                f"objective.ratio={self.ratio} and objective.base.ratio={self.base_config.ratio}: they must be equal."
            )

    @cached_property
    def base_config(self) -> ObjectiveConfig:
        """The typed config of the base. Raises ValueError for an unknown base, or keys that are not its own."""
        known = [name for name in objectives.OBJECTIVES if name != "shaped_offline"]
        check_choice("objective.base.name", self.base.get("name"), known)
        config = objectives.OBJECTIVES[self.base["name"]].config
        wanted = {field.name for field in fields(config)}
        if set(self.base) != wanted:
            raise ValueError(
                f"objective.base must have the keys {', '.join(sorted(wanted))}; got {', '.join(sorted(self.base))}."
            )
        return config(**self.base)

    @property
    def _own_ratio(self) -> bool:
        return objectives.OBJECTIVES[self.base_config.name].own_ratio

    def at(self, step: int) -> dict[str, float | None]:
        return self.base_config.at(step) | {"offline_shape": resolve(self.offline_shape, step)}

    def options(self) -> dict[str, Any]:
        return self.base_config.options() | {"online": self.base_config.name}

    def bases(self) -> tuple[ObjectiveConfig, ...]:
        return (self.base_config, *self.base_config.bases())


def with_shaped_offline(base: ObjectiveConfig, offline_shape: float | None) -> ObjectiveConfig:
    """`base` with shaped teacher tokens; `base` itself for None.

    A base that forms the sequence ratio itself is handed the token one.
    """
    if offline_shape is None:
        return base
    ratio = "token" if objectives.OBJECTIVES[base.name].own_ratio else base.ratio
    return ShapedOfflineConfig(
        name="shaped_offline", ratio=ratio, offline_shape=offline_shape, base=asdict(base)
    )
