"""d loss / d log_ratio is -ratio * advantage, and 0 where the clip binds."""

import math

import pytest
import torch

from isentropic.objectives import clip
from isentropic.objectives.clip import ClipConfig

BOUNDS = {"clip_low": 0.2, "clip_high": 0.28}


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        pytest.param(1.0, 2.0, -2.0, -2.0, id="on policy: plain policy gradient"),
        pytest.param(1.5, 2.0, -2.56, 0.0, id="rewarded, already above the bound: silent"),
        pytest.param(1.27, 2.0, -2.54, -2.54, id="rewarded, just inside"),
        pytest.param(1.5, -2.0, 3.0, 3.0, id="punished, above the bound: still pulled down"),
        pytest.param(0.5, 2.0, -1.0, -1.0, id="rewarded, below the bound: still pulled up"),
        pytest.param(0.5, -2.0, 1.6, 0.0, id="punished, already below the bound: silent"),
        pytest.param(0.81, -2.0, 1.62, 1.62, id="punished, just inside"),
        pytest.param(4.0, 0.0, 0.0, 0.0, id="no advantage"),
    ],
)
def test_loss_and_gradient(at, close, ratio, advantage, loss, slope):
    assert at(clip, [ratio], [advantage], **BOUNDS)[:2] == (close([loss]), close([slope]))


@pytest.mark.parametrize(("ratio", "advantage"), [(1.25, 1.0), (0.75, -1.0)])
def test_exactly_on_a_bound_is_inside(at, ratio, advantage):
    log_ratio = torch.tensor([math.log(ratio)], dtype=torch.float64)
    r = float(log_ratio.exp())  # 1 + (r - 1) and 1 - (1 - r) are exact here
    bounds = {"clip_low": 1 - r if r < 1 else 0.5, "clip_high": r - 1 if r > 1 else 0.5}
    _, slope, metrics = at(clip, log_ratio, [advantage], **bounds)
    assert slope == [-r * advantage] and metrics["clip/frac"] == [0.0]


def test_dual_clip_silences_punished_tokens_far_above(at, close):
    ratios, advantages = [2.9, 3.1, 3.1, 0.5], [-2.0, -2.0, 2.0, -2.0]
    loss, slope, metrics = at(clip, ratios, advantages, **BOUNDS, dual_clip=3.0)
    assert loss == close([5.8, 6.0, -2.56, 1.6])
    assert slope == close([5.8, 0.0, 0.0, 0.0])
    assert metrics["clip/dual_frac"] == [0.0, 1.0, 0.0, 0.0]


def test_no_bound_is_the_plain_surrogate(at, close):
    ratios, advantages = [0.1, 9.0], [-1.0, 1.0]
    loss, slope, metrics = at(clip, ratios, advantages, clip_low=None, clip_high=None)
    assert loss == slope == close([0.1, -9.0])
    assert metrics["clip/frac"] == [0.0, 0.0]


def test_extreme_ratios_are_clamped_at_20(at, close):
    log_ratio = torch.tensor([200.0, -200.0, 200.0, -200.0], dtype=torch.float64)
    loss, slope, metrics = at(clip, log_ratio, [1.0, 1.0, -1.0, -1.0], **BOUNDS)
    assert loss == close([-1.28, -math.exp(-20), math.exp(20), 0.8])
    assert slope == [0.0] * 4
    assert metrics["ratio"] == close([math.exp(20), math.exp(-20)] * 2)


def test_metrics_name_the_side(at):
    *_, metrics = at(clip, [0.5, 1.5, 0.5, 1.5], [-1.0, 1.0, 1.0, -1.0], **BOUNDS)
    assert metrics["clip/low_frac"] == [1, 0, 0, 0]
    assert metrics["clip/high_frac"] == [0, 1, 0, 0]
    assert metrics["clip/frac"] == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clip_low": 0.8 + 0.2}, r"objective.clip_low must be > 0 and < 1, got 1.0. .* write 0.2"),
        ({"clip_low": "0.2"}, "objective.clip_low must be a number, null or a schedule"),
        ({"clip_high": -0.1}, "objective.clip_high must be > 0, got -0.1"),
        ({"dual_clip": 1.0}, "objective.dual_clip must be > 1, got 1.0"),
        (
            {"ratio": "tokens"},
            "objective.ratio must be one of token, sequence; got 'tokens'. Did you mean 'token'?",
        ),
    ],
)
def test_config_refuses(wrong, message):
    right = {"name": "clip", "ratio": "token", "clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        ClipConfig(**right | wrong)
