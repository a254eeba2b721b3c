"""d loss / d log_ratio is -F * A with beta1 on the low side (A < 0) and beta2 on the high side (A > 0)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isentropic.objectives import ce_gppo, clip, gppo
from isentropic.objectives.ce_gppo import CeGppoConfig

PAPER = {"clip_low": 0.2, "clip_high": 0.2, "beta1": 0.5, "beta2": 1.0}


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        pytest.param(0.50, -1.0, 0.4, id="low side"),
        pytest.param(0.79, -2.0, 0.8, id="low side, just outside"),
        pytest.param(0.81, -2.0, 1.62, id="punished, just inside"),
        pytest.param(1.50, -1.0, 1.5, id="pessimistic: punished, above"),
        pytest.param(12.0, -1.0, 12.0, id="pessimistic, without the dual clip"),
        pytest.param(0.50, 1.0, -0.5, id="pessimistic: rewarded, below"),
        pytest.param(1.19, 0.5, -0.595, id="rewarded, just inside"),
        pytest.param(1.21, 0.5, -0.6, id="high side, just outside"),
        pytest.param(3.00, 1.0, -1.2, id="high side"),
        pytest.param(3.00, 0.0, 0.0, id="no advantage"),
    ],
)
def test_golden_table(at, close, ratio, advantage, loss):
    """Loss and slope are the same number in every branch."""
    assert at(ce_gppo, [ratio], [advantage], **PAPER)[:2] == (close([loss]), close([loss]))


def test_two_widths_and_two_betas_are_not_mixed_up(at, close):
    """Low: 0.3 * (1 - 0.1) * 2 = 0.54; high: 0.7 * (1 + 0.4) * 2 = 1.96."""
    loss, slope, _ = at(
        ce_gppo, [0.5, 2.0], [-2.0, 2.0], clip_low=0.1, clip_high=0.4, beta1=0.3, beta2=0.7
    )
    assert loss == slope == close([0.54, -1.96])


@pytest.mark.parametrize(("ratio", "advantage"), [(1.25, 1.0), (0.75, -1.0)])
def test_exactly_on_a_bound_is_inside(at, ratio, advantage):
    log_ratio = torch.tensor([math.log(ratio)], dtype=torch.float64)
    r = float(log_ratio.exp())
    bounds = {"clip_low": 1 - r if r < 1 else 0.5, "clip_high": r - 1 if r > 1 else 0.5}
    assert at(ce_gppo, log_ratio, [advantage], **bounds, beta1=0.0, beta2=0.0)[1] == [
        -r * advantage
    ]


def test_released_code_caps_punished_tokens(at, close):
    loss, slope, metrics = at(
        ce_gppo, [12.0, 9.0, 0.5], [-1.0, -1.0, -1.0], **PAPER, dual_clip=10.0
    )
    assert loss == close([10.0, 9.0, 0.4])
    assert slope == close([0.0, 9.0, 0.4])
    assert metrics["clip/dual_frac"] == [1.0, 0.0, 0.0]


def test_dual_clip_also_caps_a_large_beta1(at, close):
    loss, slope, _ = at(ce_gppo, [0.5], [-1.0], **PAPER | {"beta1": 5.0}, dual_clip=3.0)
    assert loss == close([3.0]) and slope == [0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_ratios_keep_their_branch(dtype):
    log_ratio = torch.tensor([-200.0, 200.0, 200.0, -200.0], dtype=dtype, requires_grad=True)
    loss = ce_gppo(log_ratio, torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=dtype), **PAPER).loss
    loss.sum().backward()
    wanted = torch.tensor([0.4, -1.2, math.exp(20), -math.exp(-20)], dtype=dtype)
    torch.testing.assert_close(loss.detach(), wanted)
    torch.testing.assert_close(log_ratio.grad, torch.tensor([0.4, -1.2, 0.0, 0.0], dtype=dtype))


def test_no_bound_has_no_side(at, close):
    loss, slope, metrics = at(
        ce_gppo, [0.1, 9.0], [-1.0, 1.0], **PAPER | {"clip_low": None, "clip_high": None}
    )
    assert loss == slope == close([0.1, -9.0]) and metrics["clip/frac"] == [0.0, 0.0]


tokens = st.lists(st.tuples(st.floats(-2, 2), st.floats(-3, 3)), min_size=1, max_size=20)


@given(tokens, st.floats(0, 2), st.floats(0, 2))
def test_gradient_is_the_closed_form(tokens, beta1, beta2):
    log_ratio = torch.tensor([t for t, _ in tokens], dtype=torch.float64, requires_grad=True)
    advantage = [a for _, a in tokens]
    factors = []
    for r, a in zip(log_ratio.detach().exp().tolist(), advantage, strict=True):
        low, high = r < 0.9 and a < 0, r > 1.3 and a > 0
        factors.append(beta1 * 0.9 if low else beta2 * 1.3 if high else r)
    result = ce_gppo(
        log_ratio,
        torch.tensor(advantage, dtype=torch.float64),
        clip_low=0.1,
        clip_high=0.3,
        beta1=beta1,
        beta2=beta2,
    )
    result.loss.sum().backward()
    wanted = [-f * a for f, a in zip(factors, advantage, strict=True)]
    assert log_ratio.grad.tolist() == pytest.approx(wanted, rel=1e-12, abs=1e-13)
    assert result.loss.tolist() == pytest.approx(wanted, rel=1e-12, abs=1e-13)


@given(tokens)
def test_betas_0_have_the_gradient_of_clip_and_betas_1_the_value(tokens):
    log_ratio = torch.tensor([t for t, _ in tokens], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([a for _, a in tokens], dtype=torch.float64)
    bounds = {"clip_low": 0.2, "clip_high": 0.28}
    plain = clip(log_ratio, advantage, **bounds).loss
    none = ce_gppo(log_ratio, advantage, **bounds, beta1=0.0, beta2=0.0).loss
    full = ce_gppo(log_ratio, advantage, **bounds, beta1=1.0, beta2=1.0).loss
    gradients = [torch.autograd.grad(loss.sum(), log_ratio)[0] for loss in (plain, none)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=0)
    torch.testing.assert_close(full, plain, rtol=1e-12, atol=0)
    assert torch.equal(full, gppo(log_ratio, advantage, **bounds).loss)


@given(
    st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=30), st.floats(0, 2), st.floats(0, 2)
)
def test_on_policy_all_betas_are_bit_identical(advantages, beta1, beta2):
    def run(**betas):
        log_ratio = torch.zeros(len(advantages), requires_grad=True)
        loss = ce_gppo(
            log_ratio, torch.tensor(advantages), clip_low=0.2, clip_high=0.2, **betas
        ).loss
        return loss, torch.autograd.grad(loss.sum(), log_ratio)[0]

    (loss, slope), (other_loss, other_slope) = (
        run(beta1=0.5, beta2=1.0),
        run(beta1=beta1, beta2=beta2),
    )
    assert torch.equal(loss, other_loss) and torch.equal(slope, other_slope)


def test_config_takes_schedules_and_checks_both_ends():
    values = {"name": "ce_gppo", "ratio": "token", **PAPER, "dual_clip": None}
    switch = {"kind": "switch", "step": 585, "before": 0.0, "after": 0.5}
    config = CeGppoConfig(**values | {"beta1": switch})
    assert [config.at(step)["beta1"] for step in (1, 584, 585, 1000)] == [0.0, 0.0, 0.5, 0.5]
    with pytest.raises(ValueError, match=r"objective.beta1.after must be >= 0, got -0.5"):
        CeGppoConfig(**values | {"beta1": switch | {"after": -0.5}})
