"""Tokens are dropped by the change of their probability; the square term stays with all."""

import math

import pytest
import torch

from isentropic.objectives import dppo_tv


def inputs(old, new):
    old, new = (torch.tensor(p, dtype=torch.float64).log() for p in (old, new))
    return new - old, {"logprob": new, "old_logprob": old}


@pytest.mark.parametrize(
    ("old", "new", "advantage", "slope"),
    [
        pytest.param(0.01, 0.10, 1.0, -10.0, id="rare token: ratio 10 but a shift of 0.09 is kept"),
        pytest.param(0.50, 0.75, 1.0, 0.0, id="rewarded, already up by 0.25: dropped"),
        pytest.param(0.50, 0.75, -1.0, 1.5, id="punished, up: pulled down"),
        pytest.param(0.75, 0.50, -1.5, 0.0, id="punished, already down by 0.25: dropped"),
        pytest.param(0.75, 0.50, 1.5, -1.0, id="rewarded, down: pulled up"),
    ],
)
def test_gradient(at, close, old, new, advantage, slope):
    log_ratio, fields = inputs([old], [new])
    loss, got, _ = at(dppo_tv, log_ratio, [advantage], **fields, delta=0.2)
    assert got == close([slope]) and loss == close([slope])


def test_exactly_delta_is_kept(at, close):
    log_ratio, fields = inputs([0.5], [0.75])
    delta = float(fields["logprob"].exp() - fields["old_logprob"].exp())
    assert at(dppo_tv, log_ratio, [1.0], **fields, delta=delta)[1] == close([-1.5])


def test_square_term_stays_where_the_policy_loss_is_dropped(at, close):
    log_ratio, fields = inputs([0.5], [0.75])
    loss, slope, _ = at(dppo_tv, log_ratio, [1.0], **fields, delta=0.2, square_coef=0.1)
    assert loss == close([0.1 * math.log(1.5) ** 2]) and slope == close([0.2 * math.log(1.5)])


def test_extreme_ratios(at, close):
    log_ratio = torch.tensor([200.0, -200.0], dtype=torch.float64)
    fields = {"logprob": torch.tensor([-1e-9, -201.0]), "old_logprob": torch.tensor([-200.0, -1.0])}
    fields = {name: value.double() for name, value in fields.items()}
    loss, slope, _ = at(dppo_tv, log_ratio, [-1.0, 1.0], **fields, delta=0.2, square_coef=1e-3)
    assert loss == close([math.exp(20) + 40, -math.exp(-20) + 40]) and slope == close([0.4, -0.4])
