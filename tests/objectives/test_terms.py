"""Values and slopes of the KL estimators, and which terms are on."""

import math

import pytest
import torch

from isentropic.objectives.loss.needs import required_fields
from isentropic.objectives.terms import (
    TERMS,
    AdaptiveEntropyConfig,
    EntropyBonusConfig,
    KlConfig,
    NllConfig,
    TermsConfig,
    kl_to_reference,
)


@pytest.mark.parametrize(
    ("estimator", "values", "slopes"),
    [
        ("k1", [-math.log(2), math.log(2), 0.0], [1.0, 1.0, 1.0]),
        ("k2", [math.log(2) ** 2 / 2] * 2 + [0.0], [-math.log(2), math.log(2), 0.0]),
        (
            "k3",
            [1 - math.log(2), math.log(2) - 0.5, 0.0],
            [-1.0, 0.5, 0.0],
        ),  # e^q - q - 1, slope 1 - e^q
    ],
)
def test_estimators(close, estimator, values, slopes):
    """q = log 2, -log 2, 0."""
    logprob = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([math.log(2), -math.log(2), 0.0], dtype=torch.float64)
    kl = kl_to_reference(logprob, reference, estimator=estimator)
    kl.sum().backward()
    assert kl.tolist() == close(values) and logprob.grad.tolist() == close(slopes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_k3_is_clamped_at_10_without_gradient(dtype):
    logprob = torch.zeros(4, dtype=dtype, requires_grad=True)
    kl = kl_to_reference(
        logprob, torch.tensor([200.0, -200.0, 3.0, -10.5], dtype=dtype), estimator="k3"
    )
    kl.sum().backward()
    assert kl.tolist() == pytest.approx([10, 10, 10, 9.5 + math.exp(-10.5)])
    assert logprob.grad.tolist() == pytest.approx([0, 0, 0, 1 - math.exp(-10.5)])


def test_coefficients_of_the_terms_that_are_on():
    ramp = {"kind": "linear", "from_step": 1, "to_step": 3, "start": 0.0, "end": 0.2}
    config = TermsConfig(
        name="some",
        kl=KlConfig(estimator="k3", coef=ramp),
        entropy_bonus=None,
        nll=NllConfig(coef=0.1),
    )
    assert config.at(2) == {"kl": pytest.approx(0.1), "nll": 0.1}
    assert required_fields("clip", config) >= {"ref_logprob", "nll_weight"}
    assert config.adaptive_entropy is None and "none" in TERMS


def test_adaptive_coefficient_is_0_until_its_rule_is_asked():
    rule = AdaptiveEntropyConfig(target=0.2, step_size=1e-4, max=5e-3, start=0.0)
    config = TermsConfig(
        name="x", kl=None, entropy_bonus=EntropyBonusConfig(coef=None, adaptive=rule), nll=None
    )
    assert config.at(1) == {"entropy_bonus": 0.0} and config.adaptive_entropy is rule
    assert "entropy" in required_fields("clip", config)


def test_refused():
    with pytest.raises(ValueError, match=r"terms.kl.estimator must be one of k1, k2, k3; got 'k4'"):
        KlConfig(estimator="k4", coef=0.1)
    with pytest.raises(ValueError, match=r"needs either coef or adaptive"):
        EntropyBonusConfig(coef=None, adaptive=None)
    with pytest.raises(ValueError, match=r"terms.nll.coef must be >= 0, got -1"):
        NllConfig(coef=-1)
