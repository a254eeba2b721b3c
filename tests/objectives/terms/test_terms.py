"""Which terms are on, with which coefficients; a term of a user's own takes part in the loss."""

from dataclasses import dataclass, fields

import pytest
import torch

from isentropic.columns import WEIGHTS
from isentropic.objectives import ReinforceConfig
from isentropic.objectives.loss.leaves import leaf_gradients
from isentropic.objectives.loss.needs import required_fields
from isentropic.objectives.loss.objective import TOKEN_FIELDS
from isentropic.objectives.terms import (
    AdaptiveEntropyConfig,
    EntropyBonusTerm,
    KlTerm,
    NllTerm,
    Term,
    TermsConfig,
)


def test_coefficients_of_the_terms_that_are_on():
    ramp = {"kind": "linear", "from_step": 1, "to_step": 3, "start": 0.0, "end": 0.2}
    terms = TermsConfig(name="some", kl=KlTerm(estimator="k3", coef=ramp), nll=NllTerm(coef=0.1))
    assert list(terms.on()) == ["kl", "nll"]
    assert terms.at(2) == {"kl": pytest.approx(0.1), "nll": 0.1}
    assert terms.adaptive_entropy is None
    assert TermsConfig(name="none").on() == {}


def test_the_rule_of_an_adaptive_bonus():
    rule = AdaptiveEntropyConfig(target=0.2, step_size=1e-4, max=5e-3, start=0.0)
    terms = TermsConfig(name="x", entropy_bonus=EntropyBonusTerm(adaptive=rule))
    assert terms.at(1) == {"entropy_bonus": 0.0} and terms.adaptive_entropy is rule


def test_every_term_reads_what_there_is():
    on = TermsConfig(
        name="all",
        kl=KlTerm(estimator="k3", coef=0.1),
        entropy_bonus=EntropyBonusTerm(coef=0.1),
        nll=NllTerm(coef=0.1),
    ).on()
    assert len(on) == len(fields(TermsConfig)) - 1
    for term in on.values():
        assert term.needs <= set(TOKEN_FIELDS) and term.weight in WEIGHTS


def test_a_new_term_is_a_class_and_a_line(close):
    """coef 0.5 on old_entropy * logprob: slope 0.5 * loss_weight * old_entropy beside -A."""

    @dataclass(frozen=True, kw_only=True)
    class Mine(Term):
        needs = frozenset({"old_entropy"})

        def value(self, fields):
            return fields["old_entropy"] * fields["logprob"]

    @dataclass(frozen=True, kw_only=True)
    class WithMine(TermsConfig):
        mine: Mine | None = None

    terms = WithMine(name="mine", mine=Mine(coef=0.5))
    objective = ReinforceConfig(name="reinforce", ratio="token")
    assert "old_entropy" in required_fields(objective, terms)
    values = {"logprob": -1.0, "old_logprob": -1.0, "advantage": 1.0, "loss_weight": 0.25}
    given = {
        name: torch.tensor([value], dtype=torch.float64)
        for name, value in (values | {"old_entropy": 2.0}).items()
    }
    result = leaf_gradients(objective, {}, given, terms=terms, term_coefficients=terms.at(1))
    assert result.d_logprob.tolist() == close([0.25 * (-1.0 + 0.5 * 2.0)])
    assert result.metrics["terms/mine"].tolist() == [-2.0] and result.d_entropy is None
