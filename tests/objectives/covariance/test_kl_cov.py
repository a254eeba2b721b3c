"""Slope -r A everywhere, plus kl_coef * sign(log r) at the tokens of largest covariance."""

import math

import pytest
import torch

from isentropic.objectives import kl_cov


def test_gradient_at_the_held_tokens(at, close):
    """Means 0.5 and -2.5: covariances 3.75, -0.75, -0.25, 1.25 (A - 0.5 times logprob + 2.5); half of four are held."""
    logprob = torch.tensor([-1.0, -4.0, -2.0, -3.0], dtype=torch.float64)
    loss, slope, metrics = at(
        kl_cov, [1.5, 2.0, 0.5, 0.5], [3.0, 1.0, 0.0, -2.0], logprob=logprob, share=0.5, kl_coef=0.1
    )
    assert metrics["cov"] == [3.75, -0.75, -0.25, 1.25]
    assert metrics["kl_cov/frac"] == [1, 0, 0, 1]
    assert loss == close([-4.5 + 0.1 * math.log(1.5), -2.0, 0.0, 1.0 + 0.1 * math.log(2)])
    assert slope == close([-4.5 + 0.1, -2.0, 0.0, 1.0 - 0.1])


def test_ties_go_to_the_first_tokens_and_one_is_the_least(at):
    logprob = torch.zeros(3, dtype=torch.float64)
    *_, metrics = at(
        kl_cov, [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], logprob=logprob, share=1e-4, kl_coef=1.0
    )
    assert metrics["kl_cov/frac"] == [1, 0, 0]
    *_, metrics = at(
        kl_cov, [1.0] * 999, [1.0] * 999, logprob=torch.zeros(999).double(), share=0.1, kl_coef=1.0
    )
    assert metrics["kl_cov/frac"] == [1] * 99 + [0] * 900


def test_on_policy_the_penalty_has_no_gradient(at):
    logprob = torch.zeros(2, dtype=torch.float64)
    assert at(kl_cov, [1.0, 1.0], [1.0, -1.0], logprob=logprob, share=1.0, kl_coef=1.0)[1] == [
        -1.0,
        1.0,
    ]


def test_rounding_of_equal_logprobs_has_no_slope(at):
    """Float32 logprobs of one policy differ by some 1e-6 nats with their microbatch, either way."""
    logprob, log_ratio = torch.zeros(4).double(), torch.tensor([3e-6, -3e-6, 2e-5, -2e-5]).double()
    _, slope, _ = at(kl_cov, log_ratio, [1.0] * 4, logprob=logprob, share=1.0, kl_coef=1.0)
    assert slope == pytest.approx([-1.0, -1.0, 0.0, -2.0], abs=1e-4)


def test_extreme_ratios(at, close):
    log_ratio = torch.tensor([200.0, -200.0], dtype=torch.float64)
    loss, slope, _ = at(
        kl_cov, log_ratio, [-1.0, 1.0], logprob=torch.zeros(2).double(), share=1.0, kl_coef=0.5
    )
    assert loss == close([math.exp(20) + 100, -math.exp(-20) + 100]) and slope == close([0.5, -0.5])
