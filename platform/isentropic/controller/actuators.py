"""What each steered coefficient did to the entropy of a step, from the books of its updates."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from isentropic.controller.step import Update
from isentropic.methods.control.controller import Effects
from isentropic.metrics.counterfactual import loss_fields
from isentropic.metrics.ledger import contributions
from isentropic.metrics.tokens import token_table
from isentropic.objectives import ObjectiveConfig
from isentropic.objectives.loss.leaves import leaf_gradients
from isentropic.objectives.terms import TermsConfig


class Actuators:
    """Measures coefficients in which the loss is linear.

    A token that is pushed at one update moves the entropy at the next ones too, through AdamW's
    momentum: by `beta1` of it at the next, and so on. What the coefficients' earlier tokens still
    do is carried from update to update, and from step to step: without it, it would count as the
    effect of all the rest whenever a coefficient has just changed.

    Args:
        objective, terms: the loss; each name is a coefficient of one of them.
        beta1: AdamW's.
    """

    def __init__(
        self, objective: ObjectiveConfig, terms: TermsConfig, names: Sequence[str], beta1: float
    ) -> None:
        self._objective = objective
        self._terms = terms
        self._names = tuple(names)
        self._beta1 = beta1
        self._carried = 0.0  # nats per update that all coefficients' tokens do by now

    def measure(self, updates: Sequence[Update]) -> Effects:
        """Takes the updates of a step, in their order."""
        made = [update for update in updates if not update.skipped]
        if not self._names or not made or any(update.books is None for update in made):
            self._carried *= self._beta1 ** len(made)
            slopes = dict.fromkeys(self._names, math.nan)
            # Weights that no update moved did not change the entropy, whatever would have.
            change = math.nan if made or not self._names else 0.0
            return Effects(change=change, rest=math.nan, slopes=slopes)
        slopes = dict.fromkeys(self._names, 0.0)
        change = rest = 0.0
        for update in made:
            books = update.books
            per_unit = self._per_unit(update)
            values = {**update.coefficients, **update.term_coefficients}
            now = sum(values[name] * nats for name, nats in per_unit.items())
            self._carried = self._beta1 * self._carried + now
            moved = books.entropy_after - books.entropy_before
            change += moved
            rest += moved - self._carried
            for name, nats in per_unit.items():
                slopes[name] += nats * books.impulse
        return Effects(change=change, rest=rest, slopes=slopes)

    def state_dict(self) -> dict[str, Any]:
        return {"carried": self._carried} if self._names else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint; those of version 0.1 carried nothing."""
        self._carried = float(state.get("carried", 0.0))

    def _per_unit(self, update: Update) -> dict[str, float]:
        """Returns the nats per unit of each coefficient at this update: its loss at 1, less at 0."""
        table = token_table(
            update.samples,
            weights=update.weights,
            logprob=update.logprob,
            entropy=update.entropy,
        )
        fields = loss_fields(table)
        return {
            name: self._nats(update, fields, name, 1.0) - self._nats(update, fields, name, 0.0)
            for name in self._names
        }

    def _nats(self, update: Update, fields: Mapping, name: str, value: float) -> float:
        """Returns what the update's tokens move if the coefficient has this value."""
        of_term = name in update.term_coefficients
        steered = {name: value}
        leaves = leaf_gradients(
            self._objective,
            update.coefficients if of_term else {**update.coefficients, **steered},
            fields,
            terms=self._terms if of_term else None,
            term_coefficients={**update.term_coefficients, **steered},
            seed=update.seed,
        )
        d_entropy = None if leaves.d_entropy is None else leaves.d_entropy.numpy()
        push = -leaves.d_logprob.numpy()
        return float(contributions(update.books, update.learning_rate, push, d_entropy).sum())
