"""Losses added to the policy's: KL to a reference, entropy bonus, NLL on correct responses. Several may be on."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isentropic.checks import check_choice, check_range
from isentropic.objectives.loss.schedule import check_coefficient, resolve
from isentropic.objectives.loss.token_loss import MAX_LOG_RATIO

MAX_K3 = 10.0  # nats


def kl_to_reference(logprob: Tensor, ref_logprob: Tensor, *, estimator: str) -> Tensor:
    """[N] estimates of KL(policy || reference) from the sampled tokens, with q = ref_logprob - logprob.

        k1 = -q        k2 = q^2 / 2        k3 = exp(q) - q - 1, clamped to [-10, 10], gradient 0 beyond

    Args:
        logprob: [N] nats; carries the gradient.
        ref_logprob: [N] nats, no gradient.
        estimator: k1 | k2 | k3.
    """
    q = ref_logprob - logprob
    if estimator == "k1":
        return -q
    if estimator == "k2":
        return q.square() / 2
    # Outside +-20 k3 is above 10 anyway: the inner clamp only keeps exp from overflowing.
    q = q.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return (torch.exp(q) - q - 1).clamp(-MAX_K3, MAX_K3)


@dataclass(frozen=True, kw_only=True)
class KlConfig:
    """GRPO's KL in the loss."""

    estimator: str  # k1 | k2 | k3
    coef: Any

    def __post_init__(self) -> None:
        check_choice("terms.kl.estimator", self.estimator, ("k1", "k2", "k3"))
        check_coefficient("terms.kl.coef", self.coef, at_least=0)


@dataclass(frozen=True, kw_only=True)
class AdaptiveEntropyConfig:
    """The rule of Skywork-OR1; `methods.entropy_coefficient` follows it."""

    target: float  # nats a token; the bonus is on below it
    step_size: float  # change of the coefficient in a step
    max: float  # largest coefficient
    start: float  # first coefficient

    def __post_init__(self) -> None:
        key = "terms.entropy_bonus.adaptive"
        check_range(f"{key}.target", self.target, above=0, hint="It is an entropy in nats a token.")
        check_range(f"{key}.step_size", self.step_size, above=0)
        check_range(f"{key}.max", self.max, above=0)
        check_range(f"{key}.start", self.start, at_least=0, at_most=self.max)


@dataclass(frozen=True, kw_only=True)
class EntropyBonusConfig:
    """-coef * H in the loss, with the gradient through the exact entropy; one of the two keys is set."""

    coef: Any  # null where adaptive
    adaptive: AdaptiveEntropyConfig | None

    def __post_init__(self) -> None:
        if (self.coef is None) == (self.adaptive is None):
            raise ValueError(
                f"terms.entropy_bonus needs either coef or adaptive, got coef={self.coef!r} and "
                f"adaptive={'null' if self.adaptive is None else 'a rule'}. Set the other one to null."
            )
        check_coefficient("terms.entropy_bonus.coef", self.coef, optional=True)


@dataclass(frozen=True, kw_only=True)
class NllConfig:
    """coef * mean of -logprob over the tokens of correct responses (reward exactly 1), as `nll_weight` weighs them."""

    coef: Any

    def __post_init__(self) -> None:
        check_coefficient("terms.nll.coef", self.coef, at_least=0)


@dataclass(frozen=True, kw_only=True)
class TermsConfig:
    """Which terms are on; null is off. `name` only says which preset was chosen."""

    name: str
    kl: KlConfig | None
    entropy_bonus: EntropyBonusConfig | None
    nll: NllConfig | None

    def at(self, step: int) -> dict[str, float]:
        """Coefficients of the terms that are on, at `step` (from 1); an adaptive one is 0 until its rule is asked."""
        coefficients = {}
        for name in ("kl", "entropy_bonus", "nll"):
            term = getattr(self, name)
            if term is not None:
                coefficients[name] = resolve(term.coef, step) if term.coef is not None else 0.0
        return coefficients

    @property
    def adaptive_entropy(self) -> AdaptiveEntropyConfig | None:
        """The rule of the entropy bonus, where it has one."""
        return self.entropy_bonus.adaptive if self.entropy_bonus is not None else None


TERMS: dict[str, type[TermsConfig]] = dict.fromkeys(
    ("none", "kl", "entropy_bonus", "adaptive_entropy", "nll"), TermsConfig
)
