"""What each steered coefficient did to the entropy of a step, from the books of its updates."""

import math
from collections.abc import Mapping, Sequence

from isentropic.controller.step import Update
from isentropic.metrics.counterfactual import loss_fields
from isentropic.metrics.ledger import per_push
from isentropic.metrics.tokens import token_table
from isentropic.objectives import ObjectiveConfig
from isentropic.objectives.loss.leaves import leaf_gradients


def actuator_slopes(
    objective: ObjectiveConfig, updates: Sequence[Update], names: Sequence[str]
) -> tuple[float, dict[str, float]]:
    """Nats per unit of each coefficient over the step, and the nats of all the rest.

    The loss is linear in an actuator, so its slope is the difference between the losses at 1 and at
    0. A token's whole effect is taken, what momentum still carries on included: the means over
    steps then add up to the measured change.

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
        nats = per_push(books, update.learning_rate) * books.impulse
        change += books.entropy_after - books.entropy_before
        for name in names:
            slope = float(_push_per_unit(objective, update, fields, name) @ nats)
            slopes[name] += slope
            explained += update.coefficients[name] * slope
    return change - explained, slopes


def _push_per_unit(objective: ObjectiveConfig, update: Update, fields: Mapping, name: str):
    """[N] push at a coefficient of 1, less that at 0."""
    one, zero = (
        leaf_gradients(
            objective, {**update.coefficients, name: value}, fields, seed=update.seed
        ).d_logprob.numpy()
        for value in (1.0, 0.0)
    )
    return zero - one
