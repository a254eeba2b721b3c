"""Slope -clamp(r) * A for every token; the value is the weighted NLL."""

import math

import pytest
import torch

from isentropic.objectives import cispo


@pytest.mark.parametrize(
    ("ratio", "weight"),
    [
        pytest.param(0.5, 0.8, id="below"),
        pytest.param(1.1, 1.1, id="inside"),
        pytest.param(4.0, 1.28, id="above"),
    ],
)
def test_loss_and_gradient(at, close, ratio, weight):
    logprob = torch.tensor([-2.0, -3.0], dtype=torch.float64)
    loss, slope, metrics = at(
        cispo, [ratio] * 2, [1.0, -2.0], logprob=logprob, clip_low=0.2, clip_high=0.28
    )
    assert loss == close([weight * 2, -weight * 6])
    assert slope == close([-weight, 2 * weight])
    assert metrics["clip/frac"] == [float(ratio != weight)] * 2


def test_without_bounds_and_at_extremes(at, close):
    logprob = torch.full((2,), -1.0, dtype=torch.float64)
    log_ratio = torch.tensor([200.0, -200.0], dtype=torch.float64)
    _, slope, _ = at(cispo, log_ratio, [1.0, 1.0], logprob=logprob, clip_low=None, clip_high=None)
    assert slope == close([-math.exp(20), -math.exp(-20)])
    _, slope, _ = at(cispo, log_ratio, [1.0, 1.0], logprob=logprob, clip_low=None, clip_high=4.0)
    assert slope == close([-5.0, -math.exp(-20)])


def test_gradient_reaches_a_live_logprob_once():
    logprob = torch.tensor([-2.0], dtype=torch.float64, requires_grad=True)
    loss = cispo(
        logprob + 2.0,
        torch.ones(1, dtype=torch.float64),
        logprob=logprob,
        clip_low=0.2,
        clip_high=0.2,
    ).loss
    loss.sum().backward()
    assert loss.tolist() == [2.0] and logprob.grad.tolist() == [-1.0]
