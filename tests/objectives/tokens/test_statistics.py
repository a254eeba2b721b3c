"""The streamed statistics are those of a plain softmax, their gradients those of autograd."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isentropic.objectives.tokens import statistics as module
from isentropic.objectives.tokens.statistics import token_statistics


def statistics_of(logits, target, **settings):
    """`logits` [N, V] as a linear layer gives them: hidden = logits, weight = identity."""
    options = {"temperature": 1.0, "vocab_chunk": 64} | settings
    return token_statistics(
        logits, torch.eye(logits.shape[1], dtype=logits.dtype), target, **options
    )


def plain(hidden, weight, target, temperature, bias=None):
    """The definitions, with the whole softmax at hand."""
    logits = (hidden @ weight.t() + (0 if bias is None else bias)) / temperature
    logp = logits.log_softmax(-1)
    p = logp.exp()
    entropy = -(p * logp).sum(-1)
    picked = logp.gather(1, target[:, None])[:, 0]
    slope = p * (logp + entropy[:, None])
    sensitivity = picked.exp() * (picked + entropy) - (p * slope).sum(-1)
    return picked, entropy, sensitivity, (p**2).sum(-1), (slope**2).sum(-1)


@pytest.mark.parametrize("vocab_chunk", [1, 3, 4, 9])
def test_polarity_of_a_known_vector(vocab_chunk):
    """T = -S for z = (2, 1, 0, -1), worked out by hand (PAPO's polarity, arXiv:2605.11775)."""
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]], dtype=torch.float64).expand(4, 4)
    result = statistics_of(logits, torch.arange(4), vocab_chunk=vocab_chunk)
    expected = [-0.1578706781877734, 0.2855184288359951, 0.2988936664015263, 0.2487284258607216]
    torch.testing.assert_close(
        -result.sensitivity, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert result.entropy.tolist() == pytest.approx([0.9475369639754256] * 4, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 5), st.integers(1, 40), st.integers(1, 50), st.integers(0, 10**6), st.booleans()
)
def test_any_chunk_gives_the_plain_softmax(num_rows, vocabulary, vocab_chunk, seed, biased):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_rows, 6, dtype=torch.float64, generator=generator) * 3
    weight = torch.randn(vocabulary, 6, dtype=torch.float64, generator=generator)
    bias = torch.randn(vocabulary, dtype=torch.float64, generator=generator) if biased else None
    target = torch.randint(vocabulary, (num_rows,), generator=generator)
    result = token_statistics(
        hidden, weight, target, temperature=0.7, vocab_chunk=vocab_chunk, bias=bias
    )
    for got, expected in zip(result, plain(hidden, weight, target, 0.7, bias), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("vocab_chunk", [3, 100], ids=["streamed", "tile kept"])
def test_gradients_of_logprob_and_entropy(vocab_chunk, monkeypatch):
    monkeypatch.setattr(module, "MAX_TILE", 6)  # several row blocks too
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(size, dtype=torch.float64, generator=generator, requires_grad=True)
        for size in [(5, 4), (7, 4), 7]
    ]
    target = torch.tensor([0, 6, 3, 2, 2])

    def scored(hidden, weight, bias):
        result = token_statistics(
            hidden, weight, target, temperature=1.3, vocab_chunk=vocab_chunk, bias=bias
        )
        return result.logprob, result.entropy

    assert torch.autograd.gradcheck(scored, inputs)
    assert torch.autograd.gradcheck(lambda *tensors: scored(*tensors)[0], inputs)
    assert torch.autograd.gradcheck(lambda *tensors: scored(*tensors)[1], inputs)


@pytest.mark.parametrize("vocab_chunk", [1, 2, 8])
def test_extreme_logits_stay_finite(vocab_chunk):
    """A one-hot distribution has entropy 0 and sensitivity 0; an impossible token has a finite, huge surprise."""
    logits = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, 1e4]], requires_grad=True)
    result = statistics_of(logits, torch.tensor([0, 2]), vocab_chunk=vocab_chunk)
    assert result.logprob.tolist() == pytest.approx([-2e4, -math.log(2)])
    assert result.entropy.tolist() == pytest.approx([0.0, math.log(2)])
    assert result.sensitivity.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert result.sum_p2.tolist() == pytest.approx([1.0, 0.5])
    assert result.sum_s2.tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    (result.logprob + result.entropy).sum().backward()
    # d log p_y / dz = e_y - p; two equal logits leave the entropy at its maximum over the two
    torch.testing.assert_close(logits.grad, torch.tensor([[1.0, -1.0, 0.0], [-0.5, 0.0, 0.5]]))


@pytest.mark.parametrize("vocab_chunk", [2, 8])
def test_no_rows(vocab_chunk):
    """A filler microbatch: no token, and gradients that are zero, not absent."""
    hidden = torch.zeros(0, 3, requires_grad=True)
    weight = torch.ones(5, 3, requires_grad=True)
    result = token_statistics(
        hidden, weight, torch.zeros(0, dtype=torch.long), temperature=1.0, vocab_chunk=vocab_chunk
    )
    result.logprob.sum().backward()
    assert [tensor.shape for tensor in result] == [(0,)] * 5
    assert hidden.grad.shape == (0, 3)
    assert weight.grad.tolist() == [[0.0] * 3] * 5


@pytest.mark.parametrize("scale", [0.01, 1.0, 8.0, 60.0], ids=["flat", "soft", "sharp", "sure"])
@pytest.mark.parametrize("vocab_chunk", [37, 512], ids=["streamed", "whole"])
def test_the_squared_slope_of_the_entropy_is_right_in_float32(scale, vocab_chunk):
    """It is |dH / dz|^2 by autograd in float64; what float32 loses is far below the largest token's share."""
    generator = torch.Generator().manual_seed(2)
    logits = scale * torch.randn(64, 512, generator=generator)
    exact = logits.double().requires_grad_()
    logp = exact.log_softmax(-1)
    (slope,) = torch.autograd.grad(-(logp.exp() * logp).sum(), exact)
    result = statistics_of(logits, torch.zeros(64, dtype=torch.long), vocab_chunk=vocab_chunk)
    torch.testing.assert_close(
        result.sum_s2.double(), slope.square().sum(-1), rtol=2e-4, atol=1e-5 * float(scale**2) / 512
    )


def test_half_precision_is_summed_in_float32():
    """256 equal rows give 256 times the gradient of one; summed in bfloat16, one by one, it would stop at 256 ulps."""
    generator = torch.Generator().manual_seed(1)
    row = torch.randn(1, 8, generator=generator).bfloat16()
    weight = torch.randn(16, 8, generator=generator).bfloat16()

    def gradient(rows):
        parameter = weight.clone().requires_grad_()
        result = token_statistics(
            rows, parameter, torch.full((len(rows),), 3), temperature=1.0, vocab_chunk=5
        )
        assert result.logprob.dtype == torch.float32
        result.logprob.sum().backward()
        return parameter.grad.float()

    torch.testing.assert_close(
        gradient(row.expand(256, 8)), 256 * gradient(row), rtol=1e-2, atol=0.1
    )


@pytest.mark.parametrize("size", [64, 2048], ids=["whole", "streamed"])
def test_bfloat16_is_multiplied_without_rounding(size):
    """Products of two bfloat16 numbers are float32 numbers, whatever unit of the CPU makes them."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(96, 64, generator=generator).bfloat16()
    weight = torch.randn(size, 64, generator=generator).bfloat16() / 4
    target = torch.randint(size, (96,), generator=generator)
    found = token_statistics(hidden, weight, target, temperature=0.7, vocab_chunk=1024)
    exact = token_statistics(
        hidden.double(), weight.double(), target, temperature=0.7, vocab_chunk=1024
    )
    for name in found._fields[:2]:
        torch.testing.assert_close(
            getattr(found, name).double(), getattr(exact, name), rtol=1e-5, atol=1e-5
        )
    # And float32's own products stay what they were.
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"


def test_temperature_zero_is_refused():
    with pytest.raises(ValueError, match=r"temperature must be > 0, got 0"):
        statistics_of(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), temperature=0.0)
