"""FlexEC's solved bounds against the live inequality, and its slopes on both sides of them."""

import pytest
import torch

from isentropic.objectives.ce_gppo import ce_gppo
from isentropic.objectives.clip import clip
from isentropic.objectives.flexec import FlexEcConfig, flexec

PAPER = {"clip_low": 0.2, "clip_high": 0.2, "up_slope": -0.25, "up_width": 0.5,
         "low_slope": -0.13, "low_width": 0.3}  # fmt: skip
BOTH = {**PAPER, "up_weight": 1.0, "low_weight": 1.0}


def at_probability(q, ratios=1):
    return torch.full((ratios,), float(q), dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("q", "upper", "lower"),
    [
        pytest.param(0.1, 1.46341, 0.70922, id="rare: 1.5 / 1.025, 0.7 / 0.987"),
        pytest.param(0.5, 1.33333, 0.74866, id="1.5 / 1.125, 0.7 / 0.935"),
        pytest.param(0.8, 1.25, 0.78125, id="1.5 / 1.2 = 1 / q: never silenced from here on"),
        pytest.param(1.0, 1.2, 0.80460, id="certain: 1.5 / 1.25, 0.7 / 0.87"),
        pytest.param(0.0, 1.5, 0.7, id="impossible: the widths themselves"),
    ],
)
def test_solved_bounds(q, upper, lower, at):
    _, _, metrics = at(flexec, [1.0], [1.0], old_logprob=at_probability(q), **BOTH)
    assert metrics["flexec/upper"] == pytest.approx([upper], abs=5e-6)
    assert metrics["flexec/lower"] == pytest.approx([lower], abs=5e-6)


@pytest.mark.parametrize(
    ("q", "advantage", "ratio", "slope"),
    [
        pytest.param(0.1, 1.0, 1.45, -1.45, id="inside the upper bound"),
        pytest.param(0.1, 1.0, 1.47, 0.0, id="past it: silent"),
        pytest.param(0.1, 1.0, 1.6, 0.0, id="a live width would give 0.04 against the advantage"),
        pytest.param(0.5, -1.0, 0.75, 0.75, id="inside the lower bound"),
        pytest.param(0.5, -1.0, 0.745, 0.0, id="past it: silent"),
        pytest.param(0.1, 1.0, 0.3, -0.3, id="rewarded, below: still pulled up"),
        pytest.param(0.1, -1.0, 3.0, 3.0, id="punished, above: still pulled down"),
    ],
)
def test_slope(q, advantage, ratio, slope, at, close):
    _, slopes, _ = at(flexec, [ratio], [advantage], old_logprob=at_probability(q), **BOTH)
    assert slopes == close([slope])


def test_solved_bounds_silence_the_same_tokens_as_the_live_widths():
    """r > 1 + a r q + b, for a grid of ratios and probabilities."""
    q, ratio = (
        grid.flatten()
        for grid in torch.meshgrid(
            torch.linspace(0.02, 0.98, 33).double(),
            torch.linspace(0.4, 1.9, 61).double(),
            indexing="ij",
        )
    )
    for sign, moved in ((1.0, ratio - 1), (-1.0, 1 - ratio)):
        slope, width = (-0.25, 0.5) if sign > 0 else (-0.13, 0.3)
        silent = moved > slope * ratio * q + width
        advantage = torch.full_like(q, sign)
        metrics = flexec(ratio.log(), advantage, old_logprob=q.log(), **BOTH).metrics
        assert torch.equal(metrics["clip/frac"].bool(), silent)
        assert 0 < silent.sum() < silent.numel()


@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.3, 0.0), (1.0, 0.7), (0.49, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_flat_widths_are_ppo_bit_for_bit(weights, dtype):
    generator = torch.Generator().manual_seed(0)
    log_ratio = 0.3 * torch.randn(500, generator=generator, dtype=dtype)
    advantage = torch.randn(500, generator=generator, dtype=dtype)
    flat = {**PAPER, "up_slope": 0.0, "low_slope": 0.0, "up_width": 0.2, "low_width": 0.2}
    ours = flexec(
        log_ratio,
        advantage,
        old_logprob=-torch.rand(500, generator=generator, dtype=dtype),
        **flat,
        up_weight=weights[0],
        low_weight=weights[1],
    )
    theirs = clip(log_ratio, advantage, clip_low=0.2, clip_high=0.2)
    assert torch.equal(ours.loss, theirs.loss)
    assert torch.equal(ours.metrics["clip/frac"], ours.metrics["flexec/fixed_low_frac"]
                       + ours.metrics["flexec/fixed_high_frac"])  # fmt: skip


def test_a_flat_upper_width_is_clip_higher(at):
    flat = {**PAPER, "up_slope": 0.0, "up_width": 0.28, "up_weight": 1.0, "low_weight": 0.0}
    ratios, advantages = [1.27, 1.29, 0.79, 0.81], [1.0, 1.0, -1.0, -1.0]
    ours = at(flexec, ratios, advantages, old_logprob=at_probability(0.4, 4), **flat)
    theirs = at(clip, ratios, advantages, clip_low=0.2, clip_high=0.28)
    assert ours[:2] == theirs[:2]


@pytest.mark.parametrize(
    ("advantage", "ratio", "slope"),
    [
        pytest.param(1.0, 1.47, -0.75 * 1.5 / 1.025, id="beta2 times the token's upper bound"),
        pytest.param(-1.0, 0.5, 0.5 * 0.7 / 0.987, id="beta1 times its lower bound"),
        pytest.param(1.0, 1.4, -1.4, id="inside: the ratio"),
    ],
)
def test_gradient_kept_beyond_the_bounds(advantage, ratio, slope, at, close):
    kept = {**BOTH, "beta1": 0.5, "beta2": 0.75}
    _, slopes, _ = at(flexec, [ratio], [advantage], old_logprob=at_probability(0.1), **kept)
    assert slopes == close([slope])


def test_kept_gradient_with_flat_widths_is_ce_gppo(at):
    flat = {**PAPER, "up_weight": 0.0, "low_weight": 0.0}
    betas = {"beta1": 0.5, "beta2": 0.75}
    ratios, advantages = [1.3, 0.7, 1.1, 0.7, 1.3], [1.0, -1.0, 1.0, 1.0, -1.0]
    ours = at(flexec, ratios, advantages, old_logprob=at_probability(0.4, 5), **flat, **betas)
    theirs = at(ce_gppo, ratios, advantages, clip_low=0.2, clip_high=0.2, **betas)
    assert ours[:2] == theirs[:2]


def test_gradient_against_autograd_on_the_ratio():
    """The loss as printed, min(r A, clamp(r) A), differentiated by autograd with bounds as constants."""
    generator = torch.Generator().manual_seed(1)
    log_ratio = 0.4 * torch.randn(200, generator=generator, dtype=torch.float64)
    advantage = torch.randn(200, generator=generator, dtype=torch.float64)
    old = -3 * torch.rand(200, generator=generator, dtype=torch.float64)
    one, other = log_ratio.clone().requires_grad_(), log_ratio.clone().requires_grad_()
    flexec(one, advantage, old_logprob=old, **BOTH).loss.sum().backward()
    q, ratio = old.exp(), other.exp()
    bounded = torch.maximum(torch.minimum(ratio, 1.5 / (1 + 0.25 * q)), 0.7 / (1 - 0.13 * q))
    (-torch.minimum(ratio * advantage, bounded * advantage)).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"up_slope": 0.1}, "up_slope"),
        ({"low_slope": -1.0}, "low_slope"),
        ({"low_width": 1.0}, "low_width"),
        ({"up_slope": -0.9, "up_width": 0.5}, "up_slope=-0.9 with objective.up_width=0.5"),
        (
            {
                "low_width": {
                    "kind": "linear",
                    "from_step": 1,
                    "to_step": 9,
                    "start": 0.3,
                    "end": 0.1,
                }
            },
            "low_slope",
        ),
        ({"up_weight": 1.5}, "up_weight"),
        ({"beta1": 0.5}, "set both to numbers"),
        ({"ratio": "sequence"}, "objective.ratio=sequence"),
    ],
)
def test_bad_settings(changes, message):
    good = {"name": "flexec", "ratio": "token", **BOTH, "beta1": None, "beta2": None}
    FlexEcConfig(**good, dual_clip=None)
    with pytest.raises(ValueError, match=message):
        FlexEcConfig(**{**good, **changes}, dual_clip=None)
