"""The base's gradient inside the band, none outside; the value is the base's everywhere."""

import math

import pytest
import torch

from isentropic.objectives import ce_gppo, erc
from isentropic.objectives.clip import ClipConfig
from isentropic.objectives.covariance.kl_cov import KlCovConfig
from isentropic.objectives.loss.leaves import leaf_gradients
from isentropic.objectives.loss.needs import required_fields
from isentropic.objectives.over.erc import ErcConfig
from isentropic.objectives.over.shaped_offline import ShapedOfflineConfig
from isentropic.objectives.tokens.statistics import token_statistics

CLIP = ClipConfig(name="clip", ratio="token", clip_low=0.2, clip_high=0.28, dual_clip=None)


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def test_band_over_ce_gppo(at, close):
    entropy = {"entropy": f64([0.94, 1.0, 1.06, 1.04]), "old_entropy": f64([1.0] * 4)}
    band = {"band_low": 0.95, "band_high": 1.05}
    base = {"clip_low": 0.2, "clip_high": 0.2, "beta1": 0.5, "beta2": 1.0}
    ratios, advantages = [0.5, 0.5, 1.0, 1.0], [-1.0, -1.0, 1.0, 1.0]
    loss, slope, metrics = at(erc, ratios, advantages, **entropy, **band, base=ce_gppo, **base)
    assert loss == close([0.4, 0.4, -1.0, -1.0]) and slope == close([0.0, 0.4, 0.0, -1.0])
    assert metrics["erc/low_frac"] == [1, 0, 0, 0] and metrics["erc/high_frac"] == [0, 0, 1, 0]
    assert loss == at(ce_gppo, ratios, advantages, **base)[0]


def test_no_gradient_through_the_entropy_and_none_lost_at_entropy_zero(at):
    entropy = f64([1e-12, 1.0]).requires_grad_()
    log_ratio = f64([0.0, 0.0]).requires_grad_()
    result = erc(
        log_ratio,
        f64([1.0, 1.0]),
        entropy=entropy,
        old_entropy=f64([0.0, 1.0]),
        band_low=0.95,
        band_high=1.05,
        clip_low=0.2,
        clip_high=0.2,
    )
    result.loss.sum().backward()
    assert entropy.grad is None and log_ratio.grad.tolist() == [-1.0, -1.0]


ROUNDING = 1.5e-6  # nats, of an entropy in float32


@pytest.mark.parametrize("vocabulary", [64, 2000])
def test_the_decision_does_not_depend_on_the_packing(vocabulary):
    """Nearly sure tokens: the statistics of the whole vocabulary at once, and those summed in tiles.

    Which of the two a token gets depends on the size of its microbatch, in the old-policy pass and in
    the update each. An unchanged policy never leaves the band; a changed one does in all four cases,
    and in float64, unless its entropy is within the rounding of an edge.
    """
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(300, vocabulary, generator=generator)
    likely = torch.randint(vocabulary, (300,), generator=generator)
    rows = torch.arange(300)
    logits[rows, likely] = logits.amax(-1) + torch.linspace(2, 25, 300)
    moved = logits.clone()
    moved[rows, likely] += 0.3 * torch.randn(300, generator=generator).sign()

    def entropies(values):
        weight, chunks = (
            torch.eye(vocabulary, dtype=values.dtype),
            (vocabulary, vocabulary // 7 + 1),
        )
        return [
            token_statistics(values, weight, likely, temperature=1.0, vocab_chunk=chunk).entropy
            for chunk in chunks
        ]

    def silent(now, before):
        inputs = {"band_low": 0.95, "band_high": 1.05, "clip_low": 0.2, "clip_high": 0.2}
        zero = torch.zeros(300)
        metrics = erc(zero, zero, entropy=now, old_entropy=before, **inputs).metrics
        return (metrics["erc/low_frac"] + metrics["erc/high_frac"]).bool()

    for before in entropies(logits):
        for now in entropies(logits):
            assert not silent(now, before).any()
    now, before = (entropies(values.double())[0] for values in (moved, logits))
    exact = silent(now, before)
    clear = torch.stack([silent(now + d, before) == exact for d in (-ROUNDING, ROUNDING)]).all(0)
    assert clear.float().mean() > 0.95 and 0.3 < exact.float().mean() < 0.9
    for before in entropies(logits):
        for now in entropies(moved):
            assert torch.equal(silent(now, before)[clear], exact[clear])


def test_exactly_on_the_band_is_inside(at):
    entropy = {"entropy": f64([1.0 - 1e-8]), "old_entropy": f64([2.0 - 1e-8])}
    ratio = float((entropy["entropy"] + 1e-8) / (entropy["old_entropy"] + 1e-8))
    _, slope, _ = at(
        erc, [1.0], [1.0], **entropy, band_low=ratio, band_high=1.05, clip_low=0.2, clip_high=0.2
    )
    assert slope == [-1.0]


def test_config_asks_for_what_its_base_needs():
    base = KlCovConfig(
        name="kl_cov", ratio="token", share=0.1, kl_coef={"kind": "constant", "value": 0.3}
    )
    config = ErcConfig(name="erc", ratio="token", band_low=0.95, band_high=1.05, base=base)
    assert config.at(3) == {"share": 0.1, "kl_coef": 0.3, "band_low": 0.95, "band_high": 1.05}
    assert config.needs_minibatch
    assert required_fields(config) >= {"entropy", "old_entropy", "logprob"}


def test_over_an_objective_that_has_a_base_itself():
    """On the teacher token p / (p + 0.1) at p = 0.1, slope -0.25; the other's entropy left the band."""
    inner = ShapedOfflineConfig(name="shaped_offline", ratio="token", offline_shape=0.1, base=CLIP)
    config = ErcConfig(name="erc", ratio="token", band_low=0.95, band_high=1.05, base=inner)
    given = {
        "logprob": f64([0.1, 0.1]).log(),
        "old_logprob": f64([0.1, 0.1]).log(),
        "advantage": f64([1.0, 1.0]),
        "loss_weight": f64([1.0, 1.0]),
        "is_teacher": torch.tensor([True, False]),
        "entropy": f64([1.0, 2.0]),
        "old_entropy": f64([1.0, 1.0]),
    }
    assert set(given) == required_fields(config)
    assert leaf_gradients(config, config.at(1), given).d_logprob.tolist() == pytest.approx(
        [-0.25, 0.0]
    )


@pytest.mark.parametrize(
    ("band", "message"),
    [
        ((1.0, 1.05), "objective.band_low must be >= 0 and < 1, got 1"),
        ((0.95, 1.0), "objective.band_high must be > 1, got 1"),
    ],
)
def test_config_refuses(band, message):
    with pytest.raises(ValueError, match=message):
        ErcConfig(name="erc", ratio="token", band_low=band[0], band_high=band[1], base=CLIP)


def test_extremes_are_finite(at):
    log_ratio = f64([200.0, -200.0])
    entropy = {"entropy": f64([0.0, 11.0]), "old_entropy": f64([11.0, 0.0])}
    loss, slope, _ = at(
        erc,
        log_ratio,
        [1.0, -1.0],
        **entropy,
        band_low=0.95,
        band_high=1.05,
        clip_low=0.2,
        clip_high=0.2,
    )
    assert all(math.isfinite(value) for value in loss + slope)
