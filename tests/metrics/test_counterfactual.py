"""Other objectives on tokens whose weights are worked out by hand."""

import math

import numpy as np
import pytest
import torch

from isentropic.columns import COLUMNS, WEIGHTS
from isentropic.metrics.accounting import update_metrics
from isentropic.metrics.counterfactual import (
    build_counterfactuals,
    counterfactual_metrics,
    loss_fields,
)
from isentropic.metrics.tokens import TokenTable
from isentropic.objectives.loss.leaves import leaf_gradients, step_loss

BOUNDS = {"ratio": "token", "clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}
PANEL = build_counterfactuals(
    {
        "ppo": {"name": "clip", **BOUNDS},
        "gppo": {"name": "ce_gppo", **BOUNDS, "beta1": 1.0, "beta2": 1.0},
        "silent": {"name": "clip", **BOUNDS, "clip_low": 1e-9, "clip_high": 1e-9},
        "gone": None,
    }
)


def table_of(ratio, advantage):
    count = len(ratio)
    columns = {name: np.zeros(count) for name in (*COLUMNS, *WEIGHTS, "entropy")}
    columns |= {"logprob": np.log(np.array(ratio)), "advantage": np.array(advantage, dtype=float)}
    columns |= {"loss_weight": np.full(count, 1 / count), "token_weight": np.ones(count)}
    columns |= {"sensitivity": np.full(count, 0.5), "sum_p2": np.ones(count)}
    columns |= {
        "sequence_id": np.zeros(count, dtype=np.int64),
        "is_teacher": np.zeros(count, dtype=bool),
    }
    return TokenTable(**columns)


def panel_of(table, used):
    return counterfactual_metrics(table, used, PANEL, step=1, seed=0, p_split=0.5)


def test_panel_by_hand():
    """F A of GPPO: -1.6, 1.2, 1 (left, right, inside), of PPO: 0, 0, 1. Cosine 1 / |(1.6, 1.2, 1)|, mass 1 / 3.8."""
    table = table_of([0.5, 1.5, 1.0], [-2, 1, 1])
    used = np.array([-1.6, 1.2, 1.0]) / 3
    metrics = panel_of(table, used)
    assert metrics["cf/gppo/cosine"] == pytest.approx(1.0)
    assert metrics["cf/gppo/mass"] == pytest.approx(1.0)
    assert metrics["cf/gppo/drift"] == pytest.approx(-0.5 * (-1.6 + 1.2 + 1) / 3)
    assert metrics["cf/gppo/grad_share/low"] == pytest.approx(1.6 / 3.8)
    assert metrics["cf/ppo/cosine"] == pytest.approx(1 / math.sqrt(1.6**2 + 1.2**2 + 1))
    assert metrics["cf/ppo/mass"] == pytest.approx(1 / 3.8)
    assert metrics["cf/ppo/grad_share/high"] == 0.0
    assert not any("gone" in name for name in metrics)


def test_an_objective_that_is_silent_points_nowhere():
    metrics = panel_of(table_of([0.5, 1.5], [-1, 1]), np.array([-0.4, 0.6]))
    assert (
        metrics["cf/silent/cosine"]
        == metrics["cf/silent/mass"]
        == metrics["cf/silent/drift"]
        == 0.0
    )


def test_entropy_change_is_what_a_step_of_the_other_objective_does():
    """Free logits, plain gradient descent: the step of each objective, made by autograd, beside its promise.

    The books are those of free logits: j = -S / N over N contexts, one state per token.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(50, 6, dtype=torch.float64, generator=generator)
    token = torch.randint(6, (50, 1), generator=generator)
    advantage = torch.sign(torch.randn(50, generator=generator)).tolist()
    table = table_of(np.ones(50), advantage)
    logp = start.log_softmax(-1)
    old = logp.gather(1, token)[:, 0] + 0.4 * torch.randn(
        50, dtype=torch.float64, generator=generator
    )
    table.columns |= {"logprob": logp.gather(1, token)[:, 0].numpy(), "old_logprob": old.numpy()}
    entropy = -(logp.exp() * logp).sum(-1)
    slope = logp.exp() * (logp + entropy[:, None])
    sensitivity = slope.gather(1, token)[:, 0] - (logp.exp() * slope).sum(-1)
    rate, j = 1e-4, -sensitivity.numpy() / 50

    def effect(push):
        return float(rate * push @ j)

    used = np.ones(50)
    metrics = counterfactual_metrics(table, used, PANEL, step=1, seed=0, p_split=0.5, effect=effect)
    for label, config in PANEL.items():
        logits = start.clone().requires_grad_()
        fields = loss_fields(table)
        live = {**fields, "logprob": logits.log_softmax(-1).gather(1, token)[:, 0]}
        step_loss(config, config.at(1), live).loss.sum().backward()
        moved = (start - rate * logits.grad).log_softmax(-1)
        measured = float((-(moved.exp() * moved).sum(-1) - entropy).mean())
        assert metrics[f"cf/{label}/entropy_change"] == pytest.approx(measured, rel=1e-3, abs=1e-12)
    assert metrics["cf/ppo/entropy_change"] != metrics["cf/gppo/entropy_change"]


def test_panel_says_of_an_objective_what_the_accounting_says_when_it_is_used():
    random = np.random.default_rng(0)
    table = table_of(np.exp(random.normal(0, 0.4, 200)), random.normal(0, 1, 200))
    config = PANEL["gppo"]
    leaves = leaf_gradients(config, config.at(1), loss_fields(table))
    used = -leaves.d_logprob.numpy()
    accounted = update_metrics(table, push=used, bounds=config.at(1), p_split=0.5)
    metrics = panel_of(table, used)
    assert metrics["cf/gppo/drift"] == pytest.approx(accounted["drift/total"], rel=1e-12)
    shares = [name for name in metrics if name.startswith("cf/gppo/grad_share/")]
    assert len(shares) == 7
    assert [metrics[name] for name in shares] == [
        accounted[name.removeprefix("cf/gppo/")] for name in shares
    ]
