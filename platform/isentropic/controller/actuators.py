"""What each steered coefficient did to the entropy of a step, from the books of its updates."""

import math
from collections.abc import Mapping, Sequence

from isentropic.controller.step import Update
from isentropic.metrics.counterfactual import loss_fields
from isentropic.metrics.ledger import contributions
from isentropic.metrics.tokens import token_table
from isentropic.objectives import ObjectiveConfig
from isentropic.objectives.loss.leaves import leaf_gradients
from isentropic.objectives.terms import TermsConfig


def actuator_slopes(
    objective: ObjectiveConfig, terms: TermsConfig, updates: Sequence[Update], names: Sequence[str]
) -> tuple[float, dict[str, float]]:
    """Nats per unit of each coefficient over the step, and the nats of all the rest.

    The loss is linear in an actuator, so its slope is the difference between the losses at 1 and at
    0. A token's whole effect is taken, what momentum still carries on included: the means over
    steps then add up to the measured change.

    Args:
        objective, terms: the loss; each name is a coefficient of one of them.

    Returns:
        (rest, slopes); all NaN if the step has no books.
    """
    measured = [update for update in updates if update.books is not None and not update.skipped]
    if not measured:
        return math.nan, dict.fromkeys(names, math.nan)
    slopes = dict.fromkeys(names, 0.0)
    change, explained = 0.0, 0.0
    for update in measured:
        books = update.books
        table = token_table(
            update.samples,
            weights=update.weights,
            logprob=update.logprob,
            entropy=update.entropy,
        )
        fields = loss_fields(table)
        change += books.entropy_after - books.entropy_before
        for name in names:
            one, zero = (
                _nats(objective, terms, update, fields, name, value) for value in (1.0, 0.0)
            )
            slopes[name] += one - zero
            value = {**update.coefficients, **update.term_coefficients}[name]
            explained += value * (one - zero)
    return change - explained, slopes


def _nats(
    objective: ObjectiveConfig,
    terms: TermsConfig,
    update: Update,
    fields: Mapping,
    name: str,
    value: float,
) -> float:
    """Nats that the update's tokens move if the coefficient has this value."""
    of_term = name in update.term_coefficients
    steered = {name: value}
    leaves = leaf_gradients(
        objective,
        update.coefficients if of_term else {**update.coefficients, **steered},
        fields,
        terms=terms if of_term else None,
        term_coefficients={**update.term_coefficients, **steered},
        seed=update.seed,
    )
    d_entropy = None if leaves.d_entropy is None else leaves.d_entropy.numpy()
    nats = contributions(update.books, update.learning_rate, -leaves.d_logprob.numpy(), d_entropy)
    return float(nats.sum() * update.books.impulse)
