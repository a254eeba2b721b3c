"""ERC: any objective, silent at tokens whose entropy changed too much."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from isentropic import (
    objectives,
)  # read when called: the base is looked up by name, and this file is in the list
from isentropic.checks import check_choice, nearest
from isentropic.objectives.loss.objective import ObjectiveConfig
from isentropic.objectives.loss.schedule import check_coefficient, resolve
from isentropic.objectives.loss.token_loss import TokenLoss

TINY = 1e-8  # nats, added to both entropies as in the released code


def erc(
    log_ratio: Tensor,
    advantage: Tensor,
    *,
    entropy: Tensor,
    old_entropy: Tensor,
    band_low: float,
    band_high: float,
    base: str = "clip",
    **base_inputs: Any,
) -> TokenLoss:
    """Entropy-ratio clipping over another objective (ERC, arXiv:2512.05591).

        rho_t  = (H_t + 1e-8) / (H_old,t + 1e-8)          exact entropies of the current and the old policy
        loss_t = base loss_t         where band_low <= rho_t <= band_high
                 sg(base loss_t)     elsewhere: no gradient, still in the denominator

    No gradient flows through rho.

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient.
        advantage: [N] in reward units, no gradient.
        entropy, old_entropy: [N] nats, full vocabulary, computed by the same code.
        band_low, band_high: bounds on rho; 0.95 and 1.05 in the paper.
        base: name of the objective, and `base_inputs` its coefficients and token fields.
    """
    objective = objectives.OBJECTIVES[base]
    entropies = {"entropy": entropy, "old_entropy": old_entropy}
    base_inputs |= {name: entropies[name] for name in objective.fields if name in entropies}
    result = objective.function(log_ratio, advantage, **base_inputs)
    change = (entropy.detach() + TINY) / (old_entropy + TINY)
    low, high = change < band_low, change > band_high
    metrics = {
        "erc/entropy_ratio": change,
        "erc/low_frac": low.to(change.dtype),
        "erc/high_frac": high.to(change.dtype),
    }
    return TokenLoss(
        torch.where(low | high, result.loss.detach(), result.loss), result.metrics | metrics
    )


@dataclass(frozen=True, kw_only=True)
class ErcConfig(ObjectiveConfig):
    """Coefficients of `objectives.erc`, and the whole config of its base."""

    band_low: Any  # bounds on the entropy ratio
    band_high: Any
    base: dict[str, Any]  # name, ratio and coefficients of another objective

    def __post_init__(self) -> None:
        super().__post_init__()
        check_coefficient("objective.band_low", self.band_low, at_least=0, below=1)
        check_coefficient("objective.band_high", self.band_high, above=1)
        base = self.base_config.ratio
        if base != self.ratio:
            raise ValueError(
                f"objective.ratio={self.ratio} with objective.base.ratio={base}: they must be equal."
            )

    @cached_property
    def base_config(self) -> ObjectiveConfig:
        """The typed config of the base.

        Raises:
            ValueError: an unknown base or key, or a value the base refuses.
        """
        known = {
            name: entry
            for name, entry in objectives.OBJECTIVES.items()
            if name != "erc" and not entry.own_ratio
        }
        check_choice("objective.base.name", self.base.get("name"), known)
        config = known[self.base["name"]].config
        wanted = [field.name for field in fields(config)]
        for key in self.base:
            if key not in wanted:
                raise ValueError(
                    f"unknown config key 'objective.base.{key}'; allowed: {', '.join(wanted)}.{nearest(key, wanted)}"
                )
        for key in wanted:
            if key not in self.base:
                raise ValueError(
                    f"objective.base.{key} has no value. Give one: objective.base.{key}=..."
                )
        return config(**self.base)

    def at(self, step: int) -> dict[str, float | None]:
        own = {"band_low": resolve(self.band_low, step), "band_high": resolve(self.band_high, step)}
        return self.base_config.at(step) | own

    def options(self) -> dict[str, Any]:
        return self.base_config.options() | {"base": self.base_config.name}

    def bases(self) -> tuple[ObjectiveConfig, ...]:
        return (self.base_config, *self.base_config.bases())
