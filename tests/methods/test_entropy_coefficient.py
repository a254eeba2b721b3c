"""The adaptive coefficient over a few steps."""

import math

import pytest

from isentropic.methods.entropy_coefficient import EntropyCoefficient, TermCoefficients
from isentropic.objectives.terms import (
    AdaptiveEntropyConfig,
    EntropyBonusTerm,
    KlTerm,
    TermsConfig,
)

RULE = AdaptiveEntropyConfig(target=0.2, step_size=1e-3, max=2.5e-3, start=0.0)


def test_rises_below_the_target_and_is_off_above():
    coefficient = EntropyCoefficient(RULE)
    assert coefficient.value == 0.0
    entropies = [0.1, 0.1, 0.1, 0.2, 0.1, 0.3, 0.3, 0.3, 0.1]
    values = [coefficient.update(entropy) for entropy in entropies]
    # c: 1e-3, 2e-3, 2.5e-3 (max), 1.5e-3 (off), 2.5e-3, 1.5e-3 (off), 0.5e-3 (off), 0 (off), 1e-3
    assert values == pytest.approx([1e-3, 2e-3, 2.5e-3, 0, 2.5e-3, 0, 0, 0, 1e-3])


def test_a_step_without_entropy_changes_nothing():
    coefficient = EntropyCoefficient(RULE)
    coefficient.update(0.1)
    assert coefficient.update(math.nan) == pytest.approx(1e-3)


def test_resume_goes_on_alike():
    first, second = EntropyCoefficient(RULE), EntropyCoefficient(RULE)
    for entropy in (0.1, 0.1, 0.3):
        first.update(entropy)
    second.load_state_dict(first.state_dict())
    assert second.value == first.value == 0
    assert second.update(0.1) == first.update(0.1) == pytest.approx(2e-3)


def test_coefficients_of_all_terms_step_by_step():
    ramp = {"kind": "linear", "from_step": 1, "to_step": 3, "start": 0.0, "end": 0.2}
    config = TermsConfig(
        name="some",
        kl=KlTerm(estimator="k3", coef=ramp),
        entropy_bonus=EntropyBonusTerm(adaptive=RULE),
    )
    first, second = TermCoefficients(config), TermCoefficients(config)
    assert first.at(1) == {"kl": 0.0, "entropy_bonus": 0.0}
    assert first.observe(0.1) == {"terms/entropy_coef": pytest.approx(1e-3)}
    second.load_state_dict(first.state_dict())
    for coefficients in (first, second):
        assert coefficients.at(2) == {
            "kl": pytest.approx(0.1),
            "entropy_bonus": pytest.approx(1e-3),
        }


def test_without_an_adaptive_term_nothing_is_observed():
    fixed = TermsConfig(name="x", entropy_bonus=EntropyBonusTerm(coef=0.003))
    coefficients = TermCoefficients(fixed)
    assert coefficients.observe(0.1) == {} and coefficients.state_dict() == {}
    assert coefficients.at(7) == {"entropy_bonus": 0.003}


def test_it_aims_at_a_floor():
    coefficient, aims = EntropyCoefficient(RULE), []
    for entropy in (0.1, 0.1, 0.1, 0.3):
        coefficient.update(entropy)
        aim = coefficient.aim()
        aims.append((aim.low, aim.high, aim.mode, aim.saturated))
    assert aims == [(0.2, None, 1, False)] * 2 + [(0.2, None, 1, True), (0.2, None, 0, False)]
