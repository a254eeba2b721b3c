"""STEER's weights on four tokens worked out by hand, and its slopes: the base's times the weight."""

import math

import pytest
import torch

from isentropic.metrics.panel import build_counterfactuals
from isentropic.objectives.ce_gppo import ce_gppo
from isentropic.objectives.clip import ClipConfig, clip
from isentropic.objectives.loss.leaves import leaf_gradients
from isentropic.objectives.over.steer import SteerConfig, steer

H = 1.0397208  # of p = (0.5, 0.25, 0.25)
SETTINGS = {"weight_min": 0.7, "weight_max": 1.2, "floor": 0.02, "quantile": 1.0}
WIDE = {"clip_low": 0.2, "clip_high": 0.28}


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


def run(p, advantage, q=None, *, entropy=H, sensitivity=0.1, of=None, base=clip, **changes):
    """(d loss / d log_ratio, metrics) at probabilities p, old ones q; `of`: the tokens' responses."""
    p, q = doubles(p), doubles(p if q is None else q)
    log_ratio = (p.log() - q.log()).requires_grad_()
    inputs = {**SETTINGS, **(WIDE if base is clip else {}), **changes}
    result = steer(
        log_ratio,
        doubles(advantage),
        logprob=p.log(),
        old_logprob=q.log(),
        entropy=torch.full_like(p, entropy),
        sensitivity=doubles(sensitivity).expand(p.shape),
        sequence_id=torch.zeros(len(p)).long() if of is None else torch.tensor(of),
        base=base,
        **inputs,
    )
    (slope,) = torch.autograd.grad(result.loss.sum(), log_ratio)
    return slope.tolist(), {name: value.tolist() for name, value in result.metrics.items()}


P, ADVANTAGE = [0.25, 0.5, 0.25, 0.5], [1.0, 1.0, -1.0, -1.0]
OMEGA = [0.2599302, 0.1732868, 0.2599302, 0.1732868]


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        pytest.param({}, [0.7, 0.7884, 0.7, 0.7884], id="exponential, 0.7"),
        pytest.param({"weight_min": 0.8}, [0.8, 0.8618, 0.8, 0.8618], id="exponential, 0.8"),
        pytest.param(
            {"weight_min": 0.8, "mapping": "linear"}, [0.8, 1.2, 0.8, 1.2], id="linear, 0.8 to 1.2"
        ),
    ],
)
def test_weights(changes, weights):
    slopes, metrics = run(P, ADVANTAGE, **changes)
    assert metrics["steer_weight/mean"] == pytest.approx(weights, abs=5e-5)
    assert metrics["steer_weight/change_mean"] == pytest.approx(OMEGA, abs=1e-7)
    assert slopes == pytest.approx([-w * a for w, a in zip(weights, ADVANTAGE, strict=True)], abs=5e-5)  # fmt: skip
    assert metrics["steer_weight/change_max"] == pytest.approx([0.2599302] * 4, abs=1e-7)


def test_off_policy():
    """p 0.5, q 0.25: |0.5 / 0.25 * 0.5 * (ln 0.5 + H)| = 0.3465736, and r = 2 beyond the clip."""
    _, metrics = run([0.5], [1.0], [0.25], skip_silenced=False)
    assert metrics["steer_weight/change_mean"] == pytest.approx([0.3465736], abs=1e-7)


def test_silenced_tokens_do_not_set_the_scale():
    """The clipped token's change of 0.347 counts only for the released code's reading."""
    p, advantage, q = [0.5, 0.5], [1.0, 1.0], [0.25, 0.5]
    _, paper = run(p, advantage, q)
    _, code = run(p, advantage, q, skip_silenced=False)
    assert paper["steer_weight/mean"] == pytest.approx([1.0, 0.7])
    assert code["steer_weight/mean"] == pytest.approx([0.7, math.sqrt(0.7)], abs=1e-6)


def test_over_ce_gppo_tokens_outside_the_clip_are_weighed_too():
    inputs = {**WIDE, "beta1": 0.5, "beta2": 1.0}
    slopes, metrics = run([0.5, 0.5], [1.0, 1.0], [0.25, 0.5], base=ce_gppo, **inputs)
    assert metrics["steer_weight/mean"] == pytest.approx([0.7, math.sqrt(0.7)], abs=1e-6)
    assert slopes == pytest.approx([-0.7 * 1.28, -math.sqrt(0.7)], abs=1e-6)


@pytest.mark.parametrize(
    ("floor", "smallest"), [(0.02, 0.8944), (0.0, 0.8)], ids=["half of the floor", "no floor"]
)
def test_floor(floor, smallest):
    """A largest change of 0.01: exp(ln 0.8 * 0.01 / 0.02)."""
    size = 0.01 / OMEGA[0]
    _, metrics = run(P, [size * a for a in ADVANTAGE], weight_min=0.8, floor=floor)
    assert min(metrics["steer_weight/mean"]) == pytest.approx(smallest, abs=5e-5)


def test_metrics_of_change():
    _, own = run(P, ADVANTAGE, metric="own")
    expected = [0.0649825, 0.0866434, 0.0649825, 0.0866434]
    assert own["steer_weight/change_mean"] == pytest.approx(expected, abs=1e-7)
    exact = {"metric": "exact", "sensitivity": [0.13, -0.13, 0.05, 0.0]}
    _, exact = run(P, [1.0, -2.0, -1.0, 1.0], **exact)
    assert exact["steer_weight/change_mean"] == pytest.approx([0.13, 0.26, 0.05, 0.0])


def test_a_quantile_takes_the_scale_from_a_heavy_tail():
    """One change of 100 and nine of 1: by the largest the nine weigh 0.996, by the median 0.7."""
    advantage, p = [100.0] + [1.0] * 9, [0.25] * 10
    _, largest = run(p, advantage)
    _, median = run(p, advantage, quantile=0.5)
    assert largest["steer_weight/mean"][1:] == pytest.approx([0.7**0.01] * 9)
    assert median["steer_weight/mean"] == pytest.approx([0.7] * 10)


@pytest.mark.parametrize(
    ("mapping", "low", "high"), [("exponential", 1.0, 0.7), ("linear", 1.2, 0.7)]
)
def test_a_quantile_of_the_smallest_change_leaves_the_largest_the_least_weight(mapping, low, high):
    """Half of the tokens have A = 0 and change nothing: the median is 0, the one above it is beyond."""
    changes = {"mapping": mapping, "quantile": 0.5, "floor": 0.0}
    _, metrics = run([0.25] * 4, [0.0, 0.0, 0.0, 1.0], **changes)
    assert metrics["steer_weight/mean"] == pytest.approx([low] * 3 + [high])


# Four responses; u is 0.26 for p 0.25 and 0.1733 for p 0.5, so two of three thirds: 0.7^(2/3).
RESPONSES, THIRD = [0, 0, 1, 2, 3], 0.7 ** (2 / 3)


@pytest.mark.parametrize(
    ("size", "p", "weights"),
    [
        # By the whole minibatch only the token of p 0.25 weighs 0.7.
        pytest.param(None, [0.5, 0.5, 0.25, 0.5, 0.5], [THIRD, THIRD, 0.7, THIRD, THIRD], id="all"),
        # Responses 0 and 1 have it in their block; for 2 and 3 a token of p 0.5 is the largest.
        pytest.param(2, [0.5, 0.5, 0.25, 0.5, 0.5], [THIRD, THIRD, 0.7, 0.7, 0.7], id="two"),
        pytest.param(3, [0.5, 0.5, 0.5, 0.25, 0.5], [THIRD, THIRD, THIRD, 0.7, 0.7], id="a rest"),
        pytest.param(1, [0.25, 0.5, 0.5, 0.5, 0.5], [0.7, THIRD, 0.7, 0.7, 0.7], id="one each"),
        pytest.param(9, [0.5, 0.5, 0.25, 0.5, 0.5], [THIRD, THIRD, 0.7, THIRD, THIRD], id="more"),
    ],
)
def test_the_largest_change_of_every_few_responses(size, p, weights):
    advantage = [1.0, -1.0, 1.0, -1.0, 1.0]
    slopes, metrics = run(p, advantage, of=RESPONSES, microbatch=size)
    assert metrics["steer_weight/mean"] == pytest.approx(weights, abs=1e-7)
    expected = [-w * a for w, a in zip(weights, advantage, strict=True)]
    assert slopes == pytest.approx(expected, abs=1e-7)


def test_the_linear_range_of_every_few_responses():
    """Block 0 has both changes, 0.8 to 1.2; block 1 equal ones, the middle."""
    p, changes = [0.25, 0.5, 0.25, 0.25], {"mapping": "linear", "weight_min": 0.8}
    _, metrics = run(p, [1.0] * 4, of=[0, 1, 2, 3], microbatch=2, **changes)
    assert metrics["steer_weight/mean"] == pytest.approx([0.8, 1.2, 1.0, 1.0])


def test_blocks_count_responses_that_have_tokens():
    """Numbers 0, 4, 5 (the metrics number a response without tokens too) are three in a row."""
    p = [0.25, 0.5, 0.5]
    for numbers in ([0, 1, 2], [0, 4, 5]):
        _, metrics = run(p, [1.0] * 3, of=numbers, microbatch=2)
        assert metrics["steer_weight/mean"] == pytest.approx([0.7, THIRD, 0.7], abs=1e-7)


def test_equal_changes_weigh_the_middle_of_the_linear_range():
    _, metrics = run([0.25, 0.25], [1.0, -1.0], mapping="linear", weight_min=0.8)
    assert metrics["steer_weight/mean"] == pytest.approx([1.0, 1.0])


def test_nothing_to_learn_weighs_one():
    slopes, metrics = run(P, [0.0] * 4)
    assert metrics["steer_weight/mean"] == [1.0] * 4 and slopes == [0.0] * 4


def config(**changes):
    base = ClipConfig(name="clip", ratio="token", **WIDE, dual_clip=None)
    values = {**SETTINGS, "metric": "paper", "mapping": "exponential", "skip_silenced": True}
    values["microbatch"] = None
    return SteerConfig(name="steer", ratio="token", base=base, **{**values, **changes})


def test_gradient_against_autograd_with_the_weights_held():
    generator = torch.Generator().manual_seed(0)
    old = -3 * torch.rand(50, generator=generator, dtype=torch.float64) - 0.01
    logprob = old + 0.3 * torch.randn(50, generator=generator, dtype=torch.float64)
    fields = {
        "logprob": logprob.clamp(max=-1e-3),
        "old_logprob": old,
        "advantage": torch.randn(50, generator=generator, dtype=torch.float64),
        "entropy": torch.rand(50, generator=generator, dtype=torch.float64),
        "sensitivity": torch.rand(50, generator=generator, dtype=torch.float64),
        "loss_weight": torch.full((50,), 0.02, dtype=torch.float64),
        "sequence_id": torch.arange(50) // 5,
    }
    ours = leaf_gradients(config(), config().at(1), fields)
    base = leaf_gradients(config().base, config().base.at(1), fields)
    weight = ours.metrics["steer_weight/mean"]
    torch.testing.assert_close(ours.d_logprob, weight * base.d_logprob, rtol=1e-12, atol=1e-16)
    assert 0 < (weight < 0.95).sum() < 50
    assert ours.metrics["steer_weight/std"][0] == pytest.approx(float(weight.std(correction=0)))


def test_in_the_panel():
    panel = {
        "steer": {
            "name": "steer", "ratio": "token", **SETTINGS, "metric": "exact", "mapping": "linear",
            "skip_silenced": False, "microbatch": 8,
            "base": {"name": "clip", "ratio": "token", **WIDE, "dual_clip": None},
        }
    }  # fmt: skip
    assert build_counterfactuals(panel)["steer"] == config(
        metric="exact", mapping="linear", skip_silenced=False, microbatch=8
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_min": 0.0}, "weight_min"),
        ({"weight_max": 0.9}, "weight_max"),
        ({"quantile": 0.0}, "quantile"),
        ({"floor": -1}, "floor"),
        ({"metric": "true"}, "objective.metric"),
        ({"mapping": "binary"}, "objective.mapping"),
        ({"microbatch": 0}, r"objective.microbatch must be >= 1, got 0. It counts responses"),
        ({"microbatch": 2.5}, r"must be whole, got 2.5. It counts responses"),
        ({"microbatch": True}, r"got True.*would depend on the hardware"),
        ({"microbatch": "learner"}, r"learner.microbatch_tokens and the number of ranks"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)
