"""KL to a reference model, in the loss (GRPO, arXiv:2402.03300)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from isentropic.checks import check_choice
from isentropic.objectives.loss.schedule import check_coefficient
from isentropic.objectives.loss.token_loss import LOG_RATIO_LIMIT
from isentropic.objectives.terms.term import Term

MAX_K3 = 10.0  # nats


def kl_to_reference(logprob: Tensor, ref_logprob: Tensor, *, estimator: str) -> Tensor:
    """Estimate KL(policy || reference) at each sampled token, with q = ref_logprob - logprob.

        k1 = -q
        k2 = q^2 / 2
        k3 = exp(q) - q - 1, clamped to [-10, 10], gradient 0 beyond

    As values k1 and k3 are unbiased, and k2 nearly so (Schulman, "Approximating KL Divergence",
    joschu.net/blog/kl-approx.html). Their gradients are another matter (NVIDIA-NeMo/RL#2506): on
    samples of the policy that of k2 is the KL's on average, and that of k3 is the gradient of
    KL(reference || policy), which is the same near the reference. That of k1 is
    E[grad logprob] = 0: it holds nothing.

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
    q = q.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return (torch.exp(q) - q - 1).clamp(-MAX_K3, MAX_K3)


@dataclass(frozen=True, kw_only=True)
class KlTerm(Term):
    """coef * KL to the reference."""

    needs = frozenset({"ref_logprob"})

    estimator: str  # k1 | k2 | k3

    def __post_init__(self) -> None:
        check_choice("terms.kl.estimator", self.estimator, ("k1", "k2", "k3"))
        check_coefficient("terms.kl.coef", self.coef, at_least=0)

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        """[N] the estimate."""
        return kl_to_reference(fields["logprob"], fields["ref_logprob"], estimator=self.estimator)
