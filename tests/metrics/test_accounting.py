"""Six tokens whose every metric can be worked out by hand; then what must hold for any tokens."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isentropic.metrics.accounting import AccountingConfig, mean_over_updates, update_metrics
from isentropic.metrics.classes import CLASSES
from isentropic.metrics.counterfactual import loss_fields
from isentropic.metrics.ledger import LedgerConfig
from isentropic.metrics.tokens import TokenTable
from isentropic.objectives.ce_gppo import CeGppoConfig
from isentropic.objectives.gspo import GspoConfig
from isentropic.objectives.loss.leaves import leaf_gradients, step_loss
from isentropic.objectives.reinforce import ReinforceConfig
from isentropic.objectives.terms import EntropyBonusTerm, TermsConfig

CE_GPPO = CeGppoConfig(
    name="ce_gppo", ratio="token", clip_low=0.2, clip_high=0.2, beta1=0.5, beta2=1.0, dual_clip=None
)


def make_table(ratio, advantage, p_old, sensitivity, *, weight=None, sum_p2=None, entropy=None):
    count = len(ratio)
    old_logprob = np.log(np.array(p_old, dtype=float))
    columns = {
        "logprob": old_logprob + np.log(np.array(ratio, dtype=float)),
        "old_logprob": old_logprob,
        "advantage": np.array(advantage, dtype=float),
        "sensitivity": np.array(sensitivity, dtype=float),
        "sum_p2": np.full(count, 0.25) if sum_p2 is None else np.array(sum_p2, dtype=float),
        "loss_weight": np.full(count, 1 / max(count, 1))
        if weight is None
        else np.array(weight, dtype=float),
        "entropy": np.zeros(count) if entropy is None else np.array(entropy, dtype=float),
        "token_weight": np.ones(count),
        "sequence_id": np.zeros(count, dtype=np.int64),
        "is_teacher": np.zeros(count, dtype=bool),
    }
    rest = {name: np.zeros(count) for name in ("rollout_logprob", "old_entropy", "reward")}
    return TokenTable(**columns, **rest)


def account(table, objective=CE_GPPO, p_split=0.5):
    coefficients = objective.at(1)
    leaves = leaf_gradients(objective, coefficients, loss_fields(table))
    token_metrics = {name: value.numpy() for name, value in leaves.metrics.items()}
    return update_metrics(
        table,
        push=-leaves.d_logprob.numpy(),
        bounds=coefficients,
        p_split=p_split,
        token_metrics=token_metrics,
    )


# token:            left       right      inside     pess. below  pess. above  no advantage
TABLE = make_table(
    ratio=[0.5, 1.5, 1.0, 0.5, 1.5, 1.0],
    advantage=[-2, 1, 1, 1, -1, 0],
    p_old=[0.25, 0.125, 0.75, 0.75, 0.75, 0.5],
    sensitivity=[-0.5, -0.25, 0.5, 0.125, 0.25, 0.0],
)
# F A of CE-GPPO(0.5, 1): 0.5*0.8*-2 = -0.8, 1.2, 1, 0.5, -1.5, 0; the magnitudes sum to 5.
# F A of PPO: 0, 0, 1, 0.5, -1.5, 0; the magnitudes sum to 3.
EXPECTED = {
    "frac/pa_hp": 2 / 6,
    "frac/pa_lp": 1 / 6,
    "frac/na_hp": 1 / 6,
    "frac/na_lp": 1 / 6,
    "frac/zero_adv": 1 / 6,
    "frac_s/pa_hp": 2 / 6,
    "frac_s/pa_lp": 1 / 6,
    "clip/frac": 2 / 6,
    "clip/low_frac": 1 / 6,
    "clip/high_frac": 1 / 6,
    "clip/low_given_neg": 1 / 2,
    "clip/high_given_pos": 1 / 3,
    "clip/dual_frac": 0.0,
    "lp_given_low": 1.0,
    "lp_given_high": 1.0,
    "pess/pos_below_frac": 1 / 6,
    "pess/neg_above_frac": 1 / 6,
    "grad_share/na_lp": 0.8 / 5,
    "grad_share/pa_lp": 1.2 / 5,
    "grad_share/pa_hp": 1.5 / 5,
    "grad_share/na_hp": 1.5 / 5,
    "grad_share/zero_adv": 0.0,
    "grad_share/low": 0.8 / 5,
    "grad_share/high": 1.2 / 5,
    "grad_share_ppo/na_lp": 0.0,
    "grad_share_ppo/pa_hp": 1.5 / 3,
    "grad_share_ppo/low": 0.0,
    # -mean(F A S): the pull on the left token lowers the entropy, the one on the right token raises it.
    "drift/low": -0.8 * 0.5 / 6,
    "drift/high": 1.2 * 0.25 / 6,
    "drift/pa_hp": -(0.5 + 0.0625) / 6,
    "drift/na_hp": 1.5 * 0.25 / 6,
    "drift/total": (-0.4 + 0.3 - 0.5625 + 0.375) / 6,
    "cov": (1.0 - 0.25 + 0.5 + 0.125 - 0.25) / 6,
    "kl/k1": -2 * math.log(0.75) / 6,
    "ratio/p50": 1.0,
    "ratio/max": 1.5,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_six_tokens(name):
    assert account(TABLE)[name] == pytest.approx(EXPECTED[name], abs=1e-14)


def test_gradient_share_on_logits():
    """|d log pi / d logits| = sqrt(1 - 2 p + sum p^2): at sum p^2 = 1/4, sqrt(0.75) for p = 1/4, 0.5 for p = 1/2."""
    table = make_table([1, 1], [1, 1], [0.25, 0.5], [0, 0])
    metrics = account(table)
    assert metrics["grad_share_logit/pa_lp"] == pytest.approx(
        math.sqrt(0.75) / (math.sqrt(0.75) + 0.5)
    )


def test_shares_carry_the_aggregation_weight():
    table = make_table([1, 1], [1, -1], [0.9, 0.9], [0.5, 0.5], weight=[0.75, 0.25])
    metrics = account(table)
    assert metrics["grad_share/pa_hp"] == pytest.approx(0.75)
    assert metrics["drift/total"] == pytest.approx(-0.75 * 0.5 + 0.25 * 0.5)
    assert metrics["frac/pa_hp"] == 0.5


def test_k3_of_a_doubled_probability():
    assert account(make_table([2.0], [1], [0.25], [0]))["kl/k3"] == pytest.approx(
        2 - 1 - math.log(2)
    )


def test_objective_without_bounds_clips_nothing():
    metrics = account(TABLE, ReinforceConfig(name="reinforce", ratio="token"))
    assert metrics["clip/frac"] == metrics["drift/low"] == metrics["pess/pos_below_frac"] == 0.0
    assert metrics["grad_share/na_lp"] == pytest.approx(2 / 6)


def test_sequence_ratio_is_the_one_that_counts():
    """GSPO sees exp(mean log ratio) = 1.5 for both tokens: both are above the bound, though one token is at 1."""
    table = make_table([2.25, 1.0], [1, 1], [0.25, 0.25], [0, 0])
    bounds = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}
    metrics = account(table, GspoConfig(name="gspo", ratio="sequence", **bounds))
    assert metrics["clip/high_frac"] == 1.0
    assert metrics["ratio/max"] == pytest.approx(1.5)


tokens = st.tuples(
    st.floats(0.01, 50),
    st.sampled_from([-1.5, -1.0, 0.0, 0.5, 2.0]),
    st.floats(0.001, 0.999),
    st.floats(-1, 1),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(tokens, max_size=20))
def test_shares_sum_to_one_and_drift_to_its_total(rows):
    ratio, advantage, p_old, sensitivity = (
        (list(column) for column in zip(*rows, strict=True)) if rows else [[]] * 4
    )
    metrics = account(make_table(ratio, advantage, p_old, sensitivity))
    whole = 1.0 if rows else 0.0
    for prefix in ("frac", "frac_s"):
        assert sum(metrics[f"{prefix}/{name}"] for name in CLASSES) == pytest.approx(whole)
    for prefix in ("drift", "drift_s"):
        assert sum(metrics[f"{prefix}/{name}"] for name in CLASSES) == pytest.approx(
            metrics["drift/total"], abs=1e-9
        )
    mass = 1.0 if any(advantage) else 0.0
    for prefix in ("grad_share", "grad_share_s"):
        assert sum(metrics[f"{prefix}/{name}"] for name in CLASSES) == pytest.approx(mass)
    assert metrics["clip/frac"] == pytest.approx(
        metrics["clip/low_frac"] + metrics["clip/high_frac"]
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(tokens, min_size=2, max_size=20), st.randoms(use_true_random=False))
def test_order_of_the_tokens_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    first, second = (
        account(make_table(*map(list, zip(*part, strict=True)))) for part in (rows, shuffled)
    )
    assert first == pytest.approx(second, rel=1e-9, abs=1e-12)


def test_drift_predicts_the_entropy_change_of_a_softmax():
    """One state, four actions: a small step along the token's own gradient changes the entropy by eta * drift."""
    logits, token, advantage, eta = np.array([2.0, 1.0, 0.0, -1.0]), 1, -1.5, 1e-5
    p = np.exp(logits) / np.exp(logits).sum()
    entropy = -(p * np.log(p)).sum()
    sensitivity = p[token] * (np.log(p[token]) + entropy) - (p**2 * (np.log(p) + entropy)).sum()
    moved = logits + eta * advantage * (np.eye(4)[token] - p)
    q = np.exp(moved) / np.exp(moved).sum()
    metrics = account(make_table([1.0], [advantage], [p[token]], [sensitivity]))
    assert -(q * np.log(q)).sum() - entropy == pytest.approx(eta * metrics["drift/total"], rel=1e-3)


def test_drift_has_the_entropy_bonus_in_it_and_with_it_the_right_sign():
    """200 states of 8 free logits, coefficient 0.05: the step that autograd makes raises the entropy.

    Tokens are drawn from the policy and rewarded if likely, so the policy loss lowers it; the bonus
    turns the sign, and the drift without its part would have the wrong one.
    """
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(200, 8, dtype=torch.float64, generator=generator, requires_grad=True)
    logp = logits.log_softmax(-1)
    p, entropy = logp.exp(), -(logp.exp() * logp).sum(-1)
    token = torch.multinomial(p.detach(), 1, generator=generator)
    picked = logp.gather(1, token)[:, 0]
    slope = (p * (logp + entropy[:, None])).detach()
    sensitivity = slope.gather(1, token)[:, 0] - (p.detach() * slope).sum(-1)
    advantage = 0.02 * torch.sign(picked.detach() + 1.5)
    chosen = (advantage, picked.detach().exp(), sensitivity)
    table = make_table(np.ones(200), *(column.tolist() for column in chosen))
    table.columns |= {"sum_s2": slope.square().sum(-1).numpy(), "entropy": entropy.detach().numpy()}
    terms = TermsConfig(name="entropy_bonus", entropy_bonus=EntropyBonusTerm(coef=0.05))
    given = {"terms": terms, "term_coefficients": {"entropy_bonus": 0.05}}

    fields = loss_fields(table)
    live = {**fields, "logprob": picked, "entropy": entropy}
    step_loss(CE_GPPO, CE_GPPO.at(1), live, **given).loss.sum().backward()
    eta = 1e-3
    moved = (logits.detach() - eta * logits.grad).log_softmax(-1)
    measured = float((-(moved.exp() * moved).sum(-1) - entropy.detach()).sum()) / eta

    leaves = leaf_gradients(CE_GPPO, CE_GPPO.at(1), fields, **given)
    known = {"push": -leaves.d_logprob.numpy(), "bounds": CE_GPPO.at(1), "p_split": 0.5}
    with_bonus = update_metrics(table, **known, d_entropy=leaves.d_entropy.numpy())
    assert update_metrics(table, **known)["drift/total"] < 0 < measured
    assert with_bonus["drift/total"] == pytest.approx(measured, rel=1e-3)
    assert sum(with_bonus[f"drift/{name}"] for name in CLASSES) == pytest.approx(measured, rel=1e-3)


def test_a_token_stored_without_the_bonus_column_has_no_drift_with_a_bonus():
    known = {"push": np.ones(6), "bounds": CE_GPPO.at(1), "p_split": 0.5}
    assert math.isnan(update_metrics(TABLE, **known, d_entropy=np.ones(6))["drift/total"])
    assert math.isfinite(update_metrics(TABLE, **known)["drift/total"])


def test_a_step_is_the_mean_of_its_updates_but_for_the_largest_ratio():
    rows = [{"clip/frac": 0.0, "ratio/max": 1.0}, {"clip/frac": 0.5, "ratio/max": 3.0}]
    assert mean_over_updates(rows) == {"clip/frac": 0.25, "ratio/max": 3.0}


def test_a_step_without_updates_has_the_same_keys():
    empty = mean_over_updates([])
    assert empty.keys() == account(TABLE).keys()
    assert empty["clip/frac"] == empty["drift/total"] == 0.0


def test_config_refuses_a_share_above_one():
    with pytest.raises(ValueError, match=r"recheck_share must be >= 0 and <= 1, got 1\.5"):
        AccountingConfig(
            p_split=0.5,
            recheck_share=1.5,
            ledger=LedgerConfig(every=0, contexts=1.0),
            counterfactuals={},
        )


def test_ppo_gives_nothing_to_tokens_beyond_the_dual_clip():
    """Ratios 1, 6, 1.1, 1 of A = +, -, -, +, dual clip at 3: the objective gives the second nothing too."""
    table = make_table([1.0, 6.0, 1.1, 1.0], [1.0, -1.0, -1.0, 1.0], [0.3] * 4, [0.1] * 4)
    push = np.array([1.0, 0.0, -1.1, 1.0]) / 4
    bounds = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0}
    found = update_metrics(table, push=push, bounds=bounds, p_split=0.5)
    for name in CLASSES:
        assert found[f"grad_share_ppo/{name}"] == found[f"grad_share/{name}"]


def test_an_update_of_nothing_has_no_entropy_and_no_kl():
    found = mean_over_updates([], 0.5)
    assert all(math.isnan(found[name]) for name in ("entropy/current", "kl/k1", "kl/k3"))
    assert found["clip/frac"] == 0.0
