"""Acceptance tests A.11 of PAPO: polarity, weights, and what they do to entropy."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isentropic.methods.papo.polarity import (
    Polarity,
    PolarityConfig,
    polarity_weights,
    rank_correlation,
)
from isentropic.objectives.tokens.statistics import token_statistics

VECTOR = np.array([2.0, 1.0, 0.0, -1.0])
VECTOR_T = [-0.1578706781877734, 0.2855184288359951, 0.2988936664015263, 0.2487284258607216]


def make(**changes) -> Polarity:
    fields = {
        "name": "polarity", "alpha": 0.2, "delta": 0.0, "weight": "branch", "renorm": False,
        "signal": "level", "h_ref": 0.3, "tau": 0.25, "beta": 0.9,
    }  # fmt: skip
    return Polarity(PolarityConfig(**(fields | changes)))


def all_t(z, vocab_chunk=1 << 20, dtype=torch.float64) -> np.ndarray:
    """T of every token of one state, through the statistics of the old-policy pass."""
    z = torch.as_tensor(z, dtype=dtype)
    hidden, tokens = z.expand(len(z), -1), torch.arange(len(z))
    eye = torch.eye(len(z), dtype=dtype)
    return -token_statistics(
        hidden, eye, tokens, temperature=1.0, vocab_chunk=vocab_chunk
    ).sensitivity.numpy()


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def entropy_of(z):
    p = softmax(z)
    return -(p * np.log(p)).sum(axis=-1)


STATES = st.lists(st.floats(-4, 4), min_size=2, max_size=9).map(np.array)


def test_a11_1_vector():
    assert entropy_of(VECTOR) == pytest.approx(0.9475369639754256, abs=1e-12)
    np.testing.assert_allclose(all_t(VECTOR), VECTOR_T, atol=1e-12, rtol=0)


@settings(max_examples=60, deadline=None)
@given(STATES)
def test_a11_1_identities(z):
    p, h, t = softmax(z), entropy_of(z), all_t(z)
    correction = (p**2 * (np.log(p) + h)).sum()
    covariance = (p * (p - (p**2).sum()) * np.log(p)).sum()
    assert p @ t == pytest.approx(0, abs=1e-12)  # 1: centred
    assert correction == pytest.approx(covariance, abs=1e-12)  # 2: a covariance, of the state alone
    assert correction >= -1e-12
    np.testing.assert_allclose(t + p * (np.log(p) + h), correction, atol=1e-12)
    assert (t[p < np.exp(-h) - 1e-9] > -1e-12).all()  # 3: rare tokens expand
    assert (t[p > 0.5 + 1e-9] < 1e-12).all()  # 4: majority tokens contract


@given(st.floats(-5, 5))
@settings(max_examples=20, deadline=None)
def test_a11_1_two_tokens(d):
    p = 1 / (1 + np.exp(-d))
    np.testing.assert_allclose(
        all_t([d, 0.0]), [-2 * p * (1 - p) ** 2 * d, 2 * p**2 * (1 - p) * d], atol=1e-12, rtol=0
    )  # 5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_a11_2_streamed_over_chunks_equals_direct(dtype, tolerance):
    z = np.random.default_rng(0).normal(size=37) * 3
    p, h = softmax(z), entropy_of(z)
    weighted = p * (np.log(p) + h)
    direct = (p * weighted).sum() - weighted
    for chunk in (1, 5, 36, 64):
        np.testing.assert_allclose(all_t(z, chunk, dtype), direct, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    "off", [{"alpha": 0.0}, {"signal": "off"}, {"alpha": 0.0, "renorm": True, "weight": "smooth"}]
)
def test_a11_3_off_is_the_base_method(off, new):
    samples = [
        new.sample(advantage=[0.3, -0.7], sensitivity=[0.1, -0.2]),
        new.sample(advantage=-1.0),
    ]
    for _ in range(3):
        out, _ = make(**off).weigh(samples, 0.1)
        assert all(got is given for got, given in zip(out, samples, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-2, 2), min_size=1, max_size=12).map(np.array),
    st.floats(-1, 1), st.floats(0, 0.95), st.sampled_from([0.0, 0.5]),
)  # fmt: skip
def test_a11_4_weights(polarity, u, alpha, delta):
    weight = polarity_weights(polarity, u, alpha=alpha, delta=delta, kind="branch")
    up, down = polarity[polarity > delta].sum(), -polarity[polarity < -delta].sum()
    assert ((weight - 1) * np.abs(polarity)).sum() == pytest.approx(
        alpha * u * (up - down), abs=1e-12
    )
    assert (weight > 0).all()
    assert (weight[np.abs(polarity) <= delta] == 1).all()


@pytest.mark.parametrize("change", [{}, {"weight": "smooth"}, {"renorm": True}])
def test_a11_4_signs_stay(change, new):
    advantage, sensitivity = (
        np.array([1.0, -1.0, 2.0, -2.0, 0.0]),
        np.array([0.3, 0.3, -0.1, -0.1, 0.2]),
    )
    (out,), metrics = make(**change).weigh(
        [new.sample(advantage=advantage, sensitivity=sensitivity)], 0.1
    )
    np.testing.assert_array_equal(np.sign(out.advantage), np.sign(advantage))
    assert (out.advantage != advantage.astype(np.float32)).any()
    if change == {"renorm": True}:
        assert np.abs(out.advantage).sum() == pytest.approx(6.0)
        assert metrics["papo/advantage_scale"] == pytest.approx(1.0)


def test_a11_4_environment_tokens_have_no_weight(new):
    """Two turns with three tokens of an environment between them: N counts the policy's alone."""
    turns = new.rollout(tokens=(5, 6, 9, 9, 9, 7), turns=((2, 4), (7, 8)))
    assert turns.num_response_tokens == 3
    (out,), _ = make().weigh(
        [new.sample(turns, advantage=[1.0, 1.0, -1.0], sensitivity=[0.1, -0.1, 0.1])], 0.0
    )
    np.testing.assert_allclose(out.advantage, [0.8, 1.2, -1.2], atol=1e-3)  # u = tanh(4) = 0.9993


def test_a11_6_one_step_orders_entropy():
    """A step with u = -1, 0, +1 leaves ever more entropy, on every random batch."""
    rng = np.random.default_rng(1)
    for _ in range(60):
        z = rng.normal(size=(20, 8)) * rng.uniform(0.3, 2.5)
        p, state = softmax(z), rng.integers(20, size=160)
        token = np.array([rng.choice(8, p=p[s]) for s in state])
        advantage = rng.normal(size=160)
        weighted = p * (np.log(p) + entropy_of(z)[:, None])
        t = (p * weighted).sum(axis=1, keepdims=True) - weighted
        polarity = advantage * t[state, token]
        after = []
        for u in (-1.0, 0.0, 1.0):
            push = polarity_weights(polarity, u, alpha=0.2, delta=0.0, kind="branch") * advantage
            step = np.zeros_like(z)
            np.add.at(step, state, push[:, None] * (np.eye(8)[token] - p[state]))
            after.append(entropy_of(z + 1e-3 * step).sum())
        assert after == sorted(after)
        assert after[0] < after[2]


def train(
    polarity: Polarity, new, *, steps=300, states=12, tokens=16, group=8, seed=0
) -> tuple[float, float]:
    """Tabular policy, 3 of 16 tokens right in each state; returns entropy and reward at the end."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(states, tokens)) * 0.5
    right = np.array([rng.choice(tokens, size=3, replace=False) for _ in range(states)])
    rows = np.repeat(np.arange(states), group)
    for _ in range(steps):
        p = softmax(z)
        drawn = (
            (rng.random((states * group, 1)) > p[rows].cumsum(axis=1))
            .sum(axis=1)
            .clip(max=tokens - 1)
        )
        reward = (drawn[:, None] == right[rows]).any(axis=1).astype(float).reshape(states, group)
        spread = reward.std(axis=1, ddof=1, keepdims=True)
        advantage = ((reward - reward.mean(axis=1, keepdims=True)) / (spread + 1e-6)).ravel()
        h = entropy_of(z)
        weighted = p * (np.log(p) + h[:, None])
        sensitivity = (weighted - (p * weighted).sum(axis=1, keepdims=True))[rows, drawn]
        batch = [new.sample(advantage=advantage, sensitivity=sensitivity, dtype=np.float64)]
        (out,), _ = polarity.weigh(batch, float(h.mean()))
        np.add.at(z, rows, 0.1 * out.advantage[:, None] * (np.eye(tokens)[drawn] - p[rows]))
    p = softmax(z)
    return float(entropy_of(z).mean()), float(
        np.take_along_axis(p, right, axis=1).sum(axis=1).mean()
    )


def test_a11_7_more_entropy_than_off_at_the_end_of_a_run(new):
    strong = {"alpha": 0.8, "h_ref": 0.9}
    off, off_reward = train(make(signal="off"), new)
    for signal in ({"signal": "two_phase", "h_ref": 1e9}, {"signal": "level"}, {"signal": "trend"}):
        kept, reward = train(make(**(strong | signal)), new)
        assert kept > 1.1 * off, signal
        assert reward > off_reward - 0.05


@pytest.mark.parametrize(("delta", "u"), [(0.0, 0.6), (0.1, 1.0), (0.3, 0.0)])
def test_the_balance_is_that_of_the_branches(new, delta, u):
    """P = (0.05, -0.2): up to delta it belongs to neither, so F+ is 0.05 or 0 and F- 0.2 or 0."""
    slot = make(signal="balance", alpha=0.5, delta=delta)
    sample = new.sample(advantage=[1, 1], sensitivity=[-0.05, 0.2])
    metrics = slot.weigh([sample], 0.6)[1]
    assert metrics["papo/u"] == pytest.approx(u, rel=1e-6)
    assert metrics["papo/expand_flow"] == pytest.approx(0.05)  # over all P > 0, whatever delta is


def test_metrics_of_a_batch_worked_by_hand(new):
    """A = (1, -1, 1, 0), T = (0.2, 0.1, -0.3, 0.5): P = (0.2, -0.1, -0.3, 0)."""
    polarity = make(signal="balance", alpha=0.5)
    _, first = polarity.weigh(
        [new.sample(advantage=[1, -1, 1, 0], sensitivity=[-0.2, -0.1, 0.3, -0.5])], 0.6
    )
    expected = {
        "expand_flow": 0.2, "contract_flow": 0.4, "net_flow": -0.2, "expand_frac": 0.25, "contract_frac": 0.5,
        "pos_expand_frac": 0.5, "pos_contract_frac": 0.5, "neg_expand_frac": 0.0, "neg_contract_frac": 1.0,
        "sensitivity_mean": 0.125, "u": 1 / 3, "expand_weight": 7 / 6, "contract_weight": 5 / 6, "entropy": 0.6,
        "entropy_smoothed": 0.6, "predicted_change": 0.2 * 7 / 6 - 0.4 * 5 / 6,
        "advantage_scale": (7 / 6 + 5 / 3) / 3,
    }  # fmt: skip
    assert {name: first[f"papo/{name}"] for name in expected} == pytest.approx(expected, rel=1e-6)
    _, second = polarity.weigh([], 0.5)
    assert make().weigh([], 0.1)[0] == []  # nothing trained, and yet a signal
    assert second["papo/measured_change"] == pytest.approx(-0.1)
    assert all(np.isfinite(value) for value in (*first.values(), *second.values()))


def test_rank_correlation():
    assert rank_correlation([(1, 10), (2, 20), (3, 15)]) == pytest.approx(0.5)
    assert np.isnan(rank_correlation([(1, 2), (2, 1)]))


def test_resume_goes_on_bit_for_bit(new):
    batches = [[new.sample(advantage=[0.5, -1.0], sensitivity=[0.1 * k, -0.2])] for k in range(8)]
    whole, first, second = make(), make(), make()
    expected = [whole.weigh(batch, 0.9 - 0.1 * k) for k, batch in enumerate(batches)]
    for k in range(4):
        first.weigh(batches[k], 0.9 - 0.1 * k)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for k in range(4, 8):
        (got,), metrics = second.weigh(batches[k], 0.9 - 0.1 * k)
        np.testing.assert_array_equal(got.advantage, expected[k][0][0].advantage)
        assert metrics == expected[k][1]


def test_alpha_of_one_is_refused():
    with pytest.raises(ValueError, match=r"papo\.alpha must be >= 0 and < 1, got 1\.0"):
        make(alpha=1.0)
