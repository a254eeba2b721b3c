"""Sums of the books in closed form: free logits under plain gradient descent, where j = -S."""

import math

import numpy as np
import pytest

from isentropic.metrics.classes import ClipSides
from isentropic.metrics.ledger import (
    Explained,
    LedgerConfig,
    contributions,
    step_ledger,
    update_ledger,
)
from isentropic.metrics.tokens import token_table
from isentropic.records import Prompt, Rollout, RolloutKey, Sample, TokenScores, UpdateBooks

P = np.array([0.7, 0.2, 0.1])
H = -(P * np.log(P)).sum()
S = P * (np.log(P) + H)
S = S - (P * S).sum()  # what pushing a token up takes from the entropy
RATE = 0.01


def sample(draw, tokens, advantage, source="new", origin="policy"):
    count = len(tokens)
    logprob = np.log(P)[tokens].astype(np.float32)
    return Sample(
        rollout=Rollout(
            key=RolloutKey("train", draw, 0, 0),
            prompt=Prompt(prompt_id="p", messages=(), answer=""),
            token_ids=np.array([0, *tokens]),
            turns=((1, count + 1),),
            rollout_logprob=logprob,
            temperature=1.0,
            seed=0,
            finish_reason="stop",
            step=1,
            policy_version=0,
            origin=origin,
            reward=1.0,
        ),
        old=TokenScores(
            logprob=logprob,
            entropy=np.full(count, H, np.float32),
            sensitivity=S[tokens].astype(np.float32),
            sum_p2=np.full(count, (P**2).sum(), np.float32),
        ),
        advantage=np.full(count, advantage, dtype=np.float32),
        token_weight=np.ones(count, dtype=np.float32),
        source=source,
    )


SAMPLES = (
    sample(0, [0, 1], 1.0),
    sample(1, [0, 2], -1.0, source="queue"),
    sample(2, [0], 1.0, origin="teacher:x"),
)
TOKENS = np.array([0, 1, 0, 2, 0])
PUSH = np.array([0.2, 0.2, -0.2, -0.2, 0.2])  # loss_weight * advantage


def books(**changes):
    values = {
        "entropy_before": H,
        "entropy_after": H + 1e-5,
        "first": 0.0,
        "trapezoid": 1e-5,
        "now": 1e-5,
        "momentum": 0.0,
        "decay": 0.0,
        "scale": 1.0,
        "impulse": 1.0,
        "logprob_slope": -S[TOKENS],
        "entropy_slope": np.full(5, (P**2 * (np.log(P) + H) ** 2).sum()),
    }
    return UpdateBooks(**(values | changes))


def table():
    weights = {"loss_weight": [0.2] * 3, "nll_weight": [0.0] * 3}
    logprob = np.log(P)[TOKENS]
    return token_table(SAMPLES, weights=weights, logprob=logprob, entropy=np.full(5, H))


def sides(low=(), high=()):
    masks = {name: np.zeros(5, dtype=bool) for name in ("low", "high", "below", "above", "dual")}
    masks["low"][list(low)] = True
    masks["high"][list(high)] = True
    return ClipSides(**masks)


def ledger(given=None, **options):
    given = given or books()
    contribution = contributions(given, RATE, PUSH, None)
    row = update_ledger(table(), SAMPLES, given, contribution, sides=sides(**options), p_split=0.5)
    return row, contribution


def test_a_token_gives_minus_rate_push_s():
    _, contribution = ledger()
    np.testing.assert_allclose(contribution, -RATE * PUSH * S[TOKENS], rtol=1e-6)
    assert contribution[0] < 0 < contribution[2]  # the likely token: rewarded and punished


def test_sums_by_class_source_and_side():
    row, c = ledger(low=[3], high=[1])
    by_class = {"pa_hp": c[0] + c[4], "pa_lp": c[1], "na_hp": c[2], "na_lp": c[3], "zero_adv": 0}
    for name, expected in by_class.items():
        assert row[f"ledger/{name}"] == pytest.approx(expected)
    by_source = {"new": c[0] + c[1], "queue": c[2] + c[3], "replay": 0, "teacher": c[4]}
    for name, expected in by_source.items():
        assert row[f"ledger/source/{name}"] == pytest.approx(expected)
    assert (row["ledger/low"], row["ledger/high"]) == pytest.approx((c[3], c[1]))
    assert row["ledger/tokens"] == pytest.approx(c.sum())
    assert sum(row[f"ledger_s/{name}"] for name in by_class) == pytest.approx(c.sum())


def test_momentum_carries_a_token_on():
    """With b1 = 0.9 after two steps, (1 - 0.81) / 0.1 = 1.9 times its first effect."""
    row, c = ledger(books(impulse=1.9))
    assert row["ledger/impulse/pa_lp"] == pytest.approx(1.9 * c[1])


def test_an_entropy_term_pushes_the_entropy_itself():
    """-0.1 H in the loss: d_entropy = -0.1 per token lifts the entropy by 0.1 |grad H|^2."""
    contribution = contributions(books(), RATE, np.zeros(5), np.full(5, -0.1))
    expected = RATE * 0.1 * (P**2 * (np.log(P) + H) ** 2).sum()
    np.testing.assert_allclose(contribution, expected, rtol=1e-6)


def test_a_wrong_sign_shows_in_the_books():
    """Tokens no longer add up to the step's own part."""
    given = books(now=float((-RATE * PUSH * S[TOKENS]).sum()))
    right = contributions(given, RATE, PUSH, None).sum()
    wrong = contributions(given, RATE, np.abs(PUSH), None).sum()
    assert right == pytest.approx(given.now)
    assert abs(wrong - given.now) > abs(given.now)


def test_a_skipped_update_moves_nothing_whatever_its_push():
    skipped = books(scale=0.0, logprob_slope=np.zeros(5), entropy_slope=np.zeros(5))
    assert contributions(skipped, RATE, np.full(5, np.nan), None).tolist() == [0.0] * 5


def test_a_step_is_the_sum_of_its_updates():
    row, _ = ledger()
    other = row | {"ledger/measured": 3e-5, "clip/frac": 0.5}
    step = step_ledger([row, other, {"clip/frac": 1.0}])
    assert step["ledger/measured"] == pytest.approx(4e-5)
    assert "clip/frac" not in step
    assert step_ledger([{"clip/frac": 1.0}]) == {}


def test_explained_by_hand():
    """Changes -2, 0, 2 with residuals 0, 1, 1: 1 - 2 / 8."""
    explained = Explained()
    for measured, residual in ((-2.0, 0.0), (0.0, 1.0), (2.0, 1.0)):
        found = explained.add({"ledger/measured": measured, "ledger/residual": residual})
    assert found == {"ledger/explained": pytest.approx(0.75)}

    again = Explained()
    again.load_state_dict(explained.state_dict())
    one, other = (
        e.add({"ledger/measured": 1.0, "ledger/residual": 0.5}) for e in (explained, again)
    )
    assert one == other
    assert explained.add({}) == {}
    assert math.isnan(
        Explained().add({"ledger/measured": 1.0, "ledger/residual": 0.0})["ledger/explained"]
    )


@pytest.mark.parametrize(
    ("every", "contexts", "message"),
    [(-1, 0.5, "ledger.every"), (1, 0.0, "ledger.contexts"), (1, 1.5, "ledger.contexts")],
)
def test_bad_settings(every, contexts, message):
    with pytest.raises(ValueError, match=message):
        LedgerConfig(every=every, contexts=contexts)


def test_which_steps_are_measured():
    assert [step for step in range(1, 7) if LedgerConfig(every=3, contexts=1).measures(step)] == [
        3,
        6,
    ]
    assert not any(LedgerConfig(every=0, contexts=1).measures(step) for step in range(1, 9))
