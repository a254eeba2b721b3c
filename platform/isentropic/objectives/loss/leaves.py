"""One loss for everyone: the update, the accounting and the panel call `step_loss`."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from isentropic.objectives.loss.objective import ObjectiveConfig
from isentropic.objectives.loss.ratio import sequence_log_ratio
from isentropic.objectives.loss.token_loss import TokenLoss
from isentropic.objectives.terms import TermsConfig


class LeafResult(NamedTuple):
    """A loss and its derivatives by what the model gives."""

    loss: Tensor  # [] the sum over the tokens given
    metrics: dict[str, Tensor]  # [N] each
    d_logprob: Tensor  # [N] d loss / d logprob
    d_entropy: Tensor | None  # [N] d loss / d entropy; None if no term has the entropy in it


def step_loss(
    objective: ObjectiveConfig,
    coefficients: Mapping[str, float | None],
    fields: Mapping[str, Tensor],
    *,
    terms: TermsConfig | None = None,
    term_coefficients: Mapping[str, float] | None = None,
    seed: int = 0,
) -> TokenLoss:
    """Give each token's share of the step's loss: their sum over the minibatch is the loss.

        share_t = loss_weight_t * (token_weight_t * policy_loss_t + kl_coef * kl_t - H_coef * H_t)
                  - nll_coef * nll_weight_t * logprob_t

    Because the weights come from global counts, it may be called on any whole sequences of the
    minibatch, and on nothing less than all of it if the objective `needs_minibatch`.

    Args:
        objective: its config.
        coefficients: of the objective, resolved (`config.at(step)`).
        fields: [N] each: those of `needs.required_fields`, and token_weight (1 if absent). logprob
            is live, and so is entropy if a term has it; the rest carries no gradient.
        terms, term_coefficients: the added losses and their coefficients, resolved
            (`terms.at(step)`).
        seed: for objectives that draw at random; one per update.
    """
    log_ratio = fields["logprob"] - fields["old_logprob"]
    if objective.ratio == "sequence":
        log_ratio = sequence_log_ratio(log_ratio, fields["sequence_id"])
    inputs = objective.inputs(coefficients, fields, seed)
    loss, metrics = objective.function(log_ratio, fields["advantage"], **inputs)
    if "token_weight" in fields:
        loss = loss * fields["token_weight"]
    added, apart, term_metrics = _terms(fields, terms, term_coefficients or {})
    loss = fields["loss_weight"] * (loss + added)
    for share in apart:
        loss = loss + share
    return TokenLoss(loss, metrics | term_metrics)


def leaf_gradients(
    objective: ObjectiveConfig,
    coefficients: Mapping[str, float | None],
    fields: Mapping[str, Tensor],
    *,
    terms: TermsConfig | None = None,
    term_coefficients: Mapping[str, float] | None = None,
    seed: int = 0,
) -> LeafResult:
    """Differentiate the sum of `step_loss` by logprob and entropy, taken as given numbers.

    Backpropagating these through the model (a vector-Jacobian product) gives the gradient of the
    loss, so an objective with minibatch statistics is called once, and a hypothetical objective
    costs no forward pass. -d_logprob is each token's weight on grad log pi. Arguments as in
    `step_loss`, all without gradient.
    """
    on = terms.on().values() if terms is not None else ()
    names = ["logprob", "entropy"] if any("entropy" in term.needs for term in on) else ["logprob"]
    with torch.enable_grad():
        leaves = {name: fields[name].detach().requires_grad_() for name in names}
        result = step_loss(
            objective,
            coefficients,
            {**fields, **leaves},
            terms=terms,
            term_coefficients=term_coefficients,
            seed=seed,
        )
        total = result.loss.sum()
        gradients = dict(zip(names, torch.autograd.grad(total, list(leaves.values())), strict=True))
    return LeafResult(
        total.detach(), result.metrics, gradients["logprob"], gradients.get("entropy")
    )


def _terms(
    fields: Mapping[str, Tensor], terms: TermsConfig | None, coefficients: Mapping[str, float]
) -> tuple[Tensor | float, list[Tensor], dict[str, Tensor]]:
    """Sum the terms that share the policy loss's weight; list the shares of the others; metrics."""
    added: Tensor | float = 0.0
    apart, metrics = [], {}
    for name, term in terms.on().items() if terms is not None else ():
        value = term.value(fields)
        if term.weight == "loss_weight":
            added = added + coefficients[name] * value
        else:
            apart.append(coefficients[name] * fields[term.weight] * value)
        logged = term.logged(value, coefficients[name])
        if logged is not None:
            metrics[f"terms/{name}"] = logged
    return added, apart, metrics
