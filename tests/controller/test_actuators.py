"""What each steered coefficient did, on five tokens whose books are given numbers."""

import math
from dataclasses import replace

import numpy as np
import pytest

from isentropic.controller.actuators import Actuators
from isentropic.controller.step import Update
from isentropic.objectives.ce_gppo import CeGppoConfig
from isentropic.objectives.terms import EntropyBonusTerm, TermsConfig
from isentropic.records import (
    Prompt,
    Rollout,
    RolloutKey,
    Sample,
    TokenScores,
    UpdateBooks,
)

RATE, SCALE, IMPULSE, BETA = 0.01, 0.5, 4.0, 0.75
WEIGHT = 0.25
OLD = np.log(np.array([0.5, 0.4, 0.3, 0.2, 0.1], dtype=np.float32))
RATIO = np.array([0.5, 0.9, 1.0, 1.1, 2.0])  # the first is below 1 - 0.2, the last above 1 + 0.2
J = np.array([0.3, -0.1, 0.2, 0.7, -0.4])
I = np.array([0.2, 0.1, -0.3, 0.4, 0.5])  # noqa: E741, as the books call it
BETAS = {"beta1": 0.5, "beta2": 1.0}


def objective():
    return CeGppoConfig(
        name="ce_gppo", ratio="token", clip_low=0.2, clip_high=0.2, dual_clip=None, **BETAS
    )


def sample(advantage):
    count = len(OLD)
    return Sample(
        rollout=Rollout(
            key=RolloutKey("train", 0, 0, 0),
            prompt=Prompt(prompt_id="p", messages=(), answer=""),
            token_ids=np.arange(count + 1),
            turns=((1, count + 1),),
            rollout_logprob=OLD,
            temperature=1.0,
            seed=0,
            finish_reason="stop",
            step=1,
            policy_version=0,
            reward=1.0,
        ),
        old=TokenScores(
            logprob=OLD,
            entropy=np.ones(count, np.float32),
            sensitivity=np.zeros(count, np.float32),
            sum_p2=np.ones(count, np.float32),
        ),
        advantage=np.full(count, advantage, np.float32),
        token_weight=np.ones(count, np.float32),
    )


def update(advantage, bonus=None):
    chosen = sample(advantage)
    books = UpdateBooks(
        entropy_before=0.40,
        entropy_after=0.39,
        first=0.0,
        trapezoid=0.0,
        now=0.0,
        momentum=0.0,
        decay=0.0,
        scale=SCALE,
        impulse=IMPULSE,
        logprob_slope=J,
        entropy_slope=I,
    )
    return Update(
        samples=(chosen,),
        weights={"loss_weight": [WEIGHT], "nll_weight": [0.0]},
        coefficients={"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None, **BETAS},
        term_coefficients={} if bonus is None else {"entropy_bonus": bonus},
        seed=0,
        policy_version=0,
        logprob=(OLD + np.log(RATIO)).astype(np.float32),
        entropy=np.ones(len(OLD), np.float32),
        grad_norm=1.0,
        skipped=False,
        learning_rate=RATE,
        seconds=1.0,
        mfu=None,
        books=books,
    )


def slopes(updates, names, bonus=False):
    terms = TermsConfig(name="t", entropy_bonus=EntropyBonusTerm(coef=0.0) if bonus else None)
    effects = Actuators(objective(), terms, names, BETA).measure(updates)
    assert effects.change == pytest.approx(-0.01 * len(updates))
    return effects.rest, effects.slopes


def test_beta1_is_the_gradient_that_the_lower_bound_keeps():
    """push / beta1 = weight (1 - clip_low) A of the one token on the left; A = -2."""
    rest, found = slopes([update(-2.0)], ["beta1", "beta2"])
    per_beta = RATE * SCALE * IMPULSE * WEIGHT * 0.8 * -2.0 * J[0]
    assert found == pytest.approx({"beta1": per_beta, "beta2": 0.0}, rel=1e-5)
    # Of a first update, AdamW takes (1 - beta) of the whole effect at once: 1 / IMPULSE.
    assert rest == pytest.approx(-0.01 - 0.5 * per_beta / IMPULSE, rel=1e-5)


def test_beta2_is_the_gradient_that_the_upper_bound_keeps():
    _, found = slopes([update(2.0)], ["beta1", "beta2"])
    per_beta = RATE * SCALE * IMPULSE * WEIGHT * 1.2 * 2.0 * J[-1]
    assert found == pytest.approx({"beta1": 0.0, "beta2": per_beta}, rel=1e-5)


def test_the_bonus_acts_along_the_entropy_of_every_token():
    """d loss / d entropy = -coefficient * weight, and a loss goes down."""
    rest, found = slopes([update(-2.0, bonus=0.03)], ["entropy_bonus"], bonus=True)
    per_unit = RATE * SCALE * IMPULSE * WEIGHT * I.sum()
    assert found == pytest.approx({"entropy_bonus": per_unit}, rel=1e-5)
    assert rest == pytest.approx(-0.01 - 0.03 * per_unit / IMPULSE, rel=1e-5)


def test_what_momentum_still_does_is_not_the_rest():
    """Two updates of a step, then a step that is not measured, then one in which beta1 is 0."""
    actuators = Actuators(objective(), TermsConfig(name="t"), ["beta1"], BETA)
    per_update = 0.5 * RATE * SCALE * WEIGHT * 0.8 * -2.0 * J[0]

    effects = actuators.measure([update(-2.0), update(-2.0)])
    assert effects.slopes["beta1"] == pytest.approx(2 * IMPULSE * per_update / 0.5, rel=1e-5)
    assert effects.rest == pytest.approx(2 * -0.01 - per_update * (1 + (1 + BETA)), rel=1e-5)

    unmeasured = actuators.measure([replace(update(-2.0), books=None)])
    assert math.isnan(unmeasured.rest) and math.isnan(unmeasured.change)
    off = replace(update(-2.0), coefficients=update(-2.0).coefficients | {"beta1": 0.0})
    rest = actuators.measure([off]).rest
    assert rest == pytest.approx(-0.01 - per_update * (1 + BETA) * BETA**2, rel=1e-5)


@pytest.mark.parametrize("updates", [[], [replace(update(-2.0), books=None, skipped=True)]])
def test_a_step_that_makes_no_update_moves_nothing(updates):
    """Not "unknown": a queue of UEC-RL trains in some steps only, and the weights stand in others."""
    actuators = Actuators(objective(), TermsConfig(name="t"), ["beta1"], BETA)
    effects = actuators.measure(updates)
    assert effects.change == 0.0
    assert math.isnan(effects.rest) and math.isnan(effects.slopes["beta1"])


def test_its_state_goes_on_after_a_resume():
    whole = Actuators(objective(), TermsConfig(name="t"), ["beta1"], BETA)
    whole.measure([update(-2.0)])
    resumed = Actuators(objective(), TermsConfig(name="t"), ["beta1"], BETA)
    resumed.load_state_dict(whole.state_dict())
    assert resumed.measure([update(-2.0)]) == whole.measure([update(-2.0)])
