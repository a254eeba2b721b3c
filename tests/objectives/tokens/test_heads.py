"""Which head works on the tiles, and that torch.compile changes none of its numbers."""

import logging

import pytest
import torch

from isentropic.objectives.tokens import statistics as module
from isentropic.objectives.tokens.heads import TORCH, _kernels_or_torch, choose_head
from isentropic.objectives.tokens.statistics import token_statistics


def test_on_a_cpu_auto_is_torch():
    assert choose_head("auto", "cpu") is TORCH
    assert choose_head("torch", "cuda") is TORCH


def test_kernels_that_do_not_run_are_replaced_and_that_is_said_once(caplog):
    """Here no GPU runs them: what a GPU that is too old for Triton sees too."""
    _kernels_or_torch.cache_clear()
    with caplog.at_level(logging.WARNING):
        heads = [_kernels_or_torch("cpu"), _kernels_or_torch("cpu")]

    assert heads == [TORCH, TORCH]
    assert [record.getMessage()[:18] for record in caplog.records] == ["the Triton kernels"]


def test_what_cannot_be_is_refused():
    with pytest.raises(
        ValueError, match=r"learner\.head must be one of auto, torch, compiled, tri"
    ):
        choose_head("liger", "cpu")
    with pytest.raises(ValueError, match=r"needs a GPU, but the learner runs on cpu\. Write auto"):
        choose_head("triton", "cpu")


def scored(head):
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(7, 6, generator=generator).requires_grad_()
    weight = torch.randn(50, 6, generator=generator).requires_grad_()
    target = torch.randint(50, (7,), generator=generator)
    result = token_statistics(hidden, weight, target, temperature=0.7, vocab_chunk=16, head=head)
    (result.logprob - 0.3 * result.entropy).sum().backward()
    return (*(tensor.detach() for tensor in result), hidden.grad, weight.grad)


@pytest.mark.slow
def test_compiled_gives_the_numbers_of_torch(monkeypatch):
    monkeypatch.setattr(module, "MAX_KEPT", 0)
    for got, expected in zip(scored("compiled"), scored("torch"), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [16, 50], ids=["streamed", "whole"])
def test_a_bias_of_minus_infinity_bans_a_token(chunk):
    """The first tile has no other; the rest is the softmax over those that are left."""
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(3, 6, dtype=torch.float64, generator=generator)
    weight = torch.randn(50, 6, dtype=torch.float64, generator=generator)
    bias = torch.zeros(50, dtype=torch.float64)
    bias[:20] = -torch.inf
    target = torch.tensor([20, 30, 49])
    got = token_statistics(hidden, weight, target, temperature=1.0, vocab_chunk=chunk, bias=bias)
    left = token_statistics(hidden, weight[20:], target - 20, temperature=1.0, vocab_chunk=chunk)
    torch.testing.assert_close(got, left)
