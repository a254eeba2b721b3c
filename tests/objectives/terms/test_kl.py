"""Values and slopes of the KL estimators."""

import math

import pytest
import torch

from isentropic.objectives.terms.kl import KlTerm, kl_to_reference


@pytest.mark.parametrize(
    ("estimator", "values", "slopes"),
    [
        ("k1", [-math.log(2), math.log(2), 0.0], [1.0, 1.0, 1.0]),
        ("k2", [math.log(2) ** 2 / 2] * 2 + [0.0], [-math.log(2), math.log(2), 0.0]),
        # e^q - q - 1, slope 1 - e^q
        ("k3", [1 - math.log(2), math.log(2) - 0.5, 0.0], [-1.0, 0.5, 0.0]),
    ],
)
def test_estimators(close, estimator, values, slopes):
    """q = log 2, -log 2, 0."""
    logprob = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([math.log(2), -math.log(2), 0.0], dtype=torch.float64)
    kl = kl_to_reference(logprob, reference, estimator=estimator)
    kl.sum().backward()
    assert kl.tolist() == close(values) and logprob.grad.tolist() == close(slopes)

    term = KlTerm(estimator=estimator, coef=0.1)
    assert torch.equal(term.value({"logprob": logprob, "ref_logprob": reference}), kl)


def test_expected_gradients():
    """Exact expectations over three actions: k1 holds nothing, k2 is the KL, k3 the reverse KL."""
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    policy = logits.log_softmax(0)

    def gradient(value):
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    def expected(estimator):
        chances = policy.exp().detach()
        return gradient((chances * kl_to_reference(policy, reference, estimator=estimator)).sum())

    forward = gradient((policy.exp() * (policy - reference)).sum())
    reverse = gradient((reference.exp() * (reference - policy)).sum())
    torch.testing.assert_close(expected("k1"), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(expected("k2"), forward)
    torch.testing.assert_close(expected("k3"), reverse)
    assert forward.norm() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_k3_is_clamped_at_10_without_gradient(dtype):
    logprob = torch.zeros(4, dtype=dtype, requires_grad=True)
    kl = kl_to_reference(
        logprob, torch.tensor([200.0, -200.0, 3.0, -10.5], dtype=dtype), estimator="k3"
    )
    kl.sum().backward()
    assert kl.tolist() == pytest.approx([10, 10, 10, 9.5 + math.exp(-10.5)])
    assert logprob.grad.tolist() == pytest.approx([0, 0, 0, 1 - math.exp(-10.5)])


def test_refused():
    with pytest.raises(ValueError, match=r"terms.kl.estimator must be one of k1, k2, k3; got 'k4'"):
        KlTerm(estimator="k4", coef=0.1)
