"""Bytes and operations, by hand for a model whose parameters can be counted on paper."""

from types import SimpleNamespace

import pytest
from transformers import Qwen3Config

from isentropic.learner.estimate import estimate_rank_bytes, flops_per_token, peak_flops

# Layer: q, o 8*8 each, k, v 8*4 each, norms of q, k 4 each; mlp 3*8*10; two norms of 8. Ends: embedding 16*8, norm 8.
LAYER = 2 * 64 + 2 * 32 + 8 + 240 + 16
EMBEDDING = 128
PARAMETERS = 2 * LAYER + EMBEDDING + 8


def qwen(tied):
    return Qwen3Config(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=10,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        tie_word_embeddings=tied,
    )


@pytest.mark.parametrize(("tied", "multiplied"), [(True, PARAMETERS), (False, PARAMETERS)])
def test_flops(tied, multiplied):
    """An untied embedding is read, not multiplied; attention: 2 layers, 2 products over half of 10 tokens, 8 wide."""
    forward = 2 * multiplied + 2 * (2 * 2 * 10 / 2 * 8)
    assert flops_per_token(qwen(tied), 10, backward=False) == forward
    assert flops_per_token(qwen(tied), 10) == 3 * forward


def test_bytes_of_a_rank():
    """float32 weights, gradients and two moments: 16 bytes a parameter over two ranks."""
    learner = SimpleNamespace(
        num_ranks=2,
        dtype="bfloat16",
        gradient_checkpointing=False,
        microbatch_tokens=100,
        vocab_chunk=5,
    )
    rank = estimate_rank_bytes(qwen(True), learner)
    assert rank.weights + rank.gradients + rank.optimizer == 8 * PARAMETERS
    assert rank.gathered == (2 + 4) * PARAMETERS
    assert rank.tile == 3 * 4 * 100 * 5
    assert rank.reference == 0
    assert rank.total == sum(getattr(rank, name) for name in rank.__slots__)
    assert estimate_rank_bytes(qwen(True), learner, reference=True).reference == rank.weights


def test_peak_of_known_devices():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("Quadro") is None
