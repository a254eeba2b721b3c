"""One loss for everyone: the update, the accounting and the counterfactual panel call `step_loss`."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from isentropic.objectives.loss.needs import entry, function_fields, takes_seed
from isentropic.objectives.loss.objective import ObjectiveConfig
from isentropic.objectives.loss.ratio import sequence_log_ratio
from isentropic.objectives.loss.token_loss import TokenLoss
from isentropic.objectives.terms import TermsConfig, kl_to_reference


class LeafResult(NamedTuple):
    """A loss and its derivatives by what the model gives."""

    loss: Tensor  # [] the sum over the tokens given
    metrics: dict[str, Tensor]  # [N] each
    d_logprob: Tensor  # [N] d loss / d logprob
    d_entropy: Tensor | None  # [N] d loss / d entropy; None where no entropy bonus is on


def step_loss(
    objective: ObjectiveConfig | str,
    coefficients: Mapping[str, float | None],
    fields: Mapping[str, Tensor],
    *,
    terms: TermsConfig | None = None,
    term_coefficients: Mapping[str, float] | None = None,
    seed: int = 0,
) -> TokenLoss:
    """Each token's share of the step's loss: the sum over all tokens of the minibatch is the loss.

        share_t = loss_weight_t * (token_weight_t * policy_loss_t + kl_coef * kl_t - entropy_coef * H_t)
                  - nll_coef * nll_weight_t * logprob_t

    Because the weights come from global counts, it may be called on any whole sequences of the minibatch, and on
    nothing less than all of it where the objective `needs_minibatch`.

    Args:
        objective: its config, or a name in OBJECTIVES (then with the token ratio and no options).
        coefficients: of the objective, resolved (`config.at(step)`).
        fields: [N] each: those of `needs.required_fields`, and token_weight (1 where absent). logprob is live,
            and so is entropy where the entropy bonus is on; the rest carries no gradient.
        terms, term_coefficients: the added losses and their coefficients, resolved (`terms.at(step)`).
        seed: for objectives that draw at random; one for each update.
    """
    log_ratio = fields["logprob"] - fields["old_logprob"]
    inputs = {name: fields[name] for name in function_fields(objective)}
    if takes_seed(objective):
        inputs["seed"] = seed
    if not isinstance(objective, str):
        inputs |= objective.options()
        if objective.ratio == "sequence" and not entry(objective).own_ratio:
            log_ratio = sequence_log_ratio(log_ratio, fields["sequence_id"])
    loss, metrics = entry(objective).function(
        log_ratio, fields["advantage"], **coefficients, **inputs
    )
    if "token_weight" in fields:
        loss = loss * fields["token_weight"]
    added, term_metrics = _terms(fields, terms, term_coefficients or {})
    loss = fields["loss_weight"] * (loss + added)
    if terms is not None and terms.nll is not None:
        loss = loss - term_coefficients["nll"] * fields["nll_weight"] * fields["logprob"]
    return TokenLoss(loss, metrics | term_metrics)


def leaf_gradients(
    objective: ObjectiveConfig | str,
    coefficients: Mapping[str, float | None],
    fields: Mapping[str, Tensor],
    *,
    terms: TermsConfig | None = None,
    term_coefficients: Mapping[str, float] | None = None,
    seed: int = 0,
) -> LeafResult:
    """d (sum of `step_loss`) / d logprob and d entropy, for logprob and entropy as given numbers.

    Backpropagating these through the model (a vector-Jacobian product) gives the gradient of the loss, so an
    objective with minibatch statistics is called once, and a hypothetical objective costs no forward pass.
    -d_logprob is each token's weight on grad log pi. Arguments as in `step_loss`, all without gradient.
    """
    bonus = terms is not None and terms.entropy_bonus is not None
    with torch.enable_grad():
        leaves = {"logprob": fields["logprob"].detach().requires_grad_()}
        if bonus:
            leaves["entropy"] = fields["entropy"].detach().requires_grad_()
        result = step_loss(
            objective,
            coefficients,
            {**fields, **leaves},
            terms=terms,
            term_coefficients=term_coefficients,
            seed=seed,
        )
        total = result.loss.sum()
        gradients = torch.autograd.grad(total, list(leaves.values()))
    return LeafResult(total.detach(), result.metrics, gradients[0], gradients[1] if bonus else None)


def _terms(
    fields: Mapping[str, Tensor], terms: TermsConfig | None, coefficients: Mapping[str, float]
) -> tuple[Tensor | float, dict[str, Tensor]]:
    """The terms that share the policy loss's weight, each times its coefficient, and their values as metrics."""
    added: Tensor | float = 0.0
    metrics = {}
    if terms is not None and terms.kl is not None:
        kl = kl_to_reference(fields["logprob"], fields["ref_logprob"], estimator=terms.kl.estimator)
        added = added + coefficients["kl"] * kl
        metrics["terms/kl"] = kl.detach()
    if terms is not None and terms.entropy_bonus is not None:
        added = added - coefficients["entropy_bonus"] * fields["entropy"]
        metrics["terms/entropy_bonus"] = coefficients["entropy_bonus"] * fields["entropy"].detach()
    return added, metrics
