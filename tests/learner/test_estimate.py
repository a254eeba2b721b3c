"""Bytes and operations, by hand for a model whose parameters can be counted on paper."""

from types import SimpleNamespace

import pytest
from transformers import GPT2Config, OPTConfig, Qwen3Config, Qwen3MoeConfig

from isentropic.config import LoraConfig
from isentropic.learner.estimate import (
    attention_share,
    count_trained,
    estimate_rank_bytes,
    flops_per_token,
    head_size,
    mlp_width,
    peak_flops,
)

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


def test_a_token_costs_the_experts_that_it_is_sent_to():
    """One of four experts of 3 * 8 * 6 weights in each of two layers, and the router's 4 * 8."""
    sizes = {"num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 6}
    model = Qwen3MoeConfig(**(qwen(True).to_dict() | sizes | {"model_type": "qwen3_moe"}))
    dense = PARAMETERS - 2 * 240
    attention = 2 * (2 * 2 * 10 / 2 * 8)

    forward = 2 * (dense + 2 * (3 * 8 * 6 + 4 * 8)) + attention
    assert flops_per_token(model, 10, backward=False) == forward


def test_attention_grows_with_the_sequence():
    """A token before another costs two products of two layers, two heads, four dimensions."""
    whole, alone = flops_per_token(qwen(True), 100, backward=False), 2 * PARAMETERS
    assert attention_share(qwen(True)) == 2 * 2 * 2 * 4 / alone
    assert whole == alone * (1 + 100 * attention_share(qwen(True)))


LEARNER = SimpleNamespace(
    num_ranks=2,
    dtype="bfloat16",
    gradient_checkpointing=False,
    microbatch_tokens=100,
    vocab_chunk=5,
    unsharded_gradient_gib=1.0,
    replicas=1,
    context_parallel=1,
    lora=None,
)


def learner(**changes):
    return SimpleNamespace(**(vars(LEARNER) | changes))


def test_state_of_a_rank():
    """float32 weights, gradients and two moments: 16 bytes a parameter over two ranks."""
    rank = estimate_rank_bytes(qwen(True), LEARNER)
    assert rank.state + rank.gradients == 8 * PARAMETERS
    assert rank.reference == 0
    assert estimate_rank_bytes(qwen(True), LEARNER, reference=True).reference == rank.weights


def test_gradients_stand_unsharded_up_to_a_budget():
    assert estimate_rank_bytes(qwen(True), LEARNER).unsharded == 4 * PARAMETERS
    assert estimate_rank_bytes(qwen(True), learner(unsharded_gradient_gib=0.0)).unsharded == 0


def test_what_a_large_model_gathers(monkeypatch):
    """Both ends if they are two, a layer, and the next one."""
    assert estimate_rank_bytes(qwen(True), LEARNER).gathered == 2 * PARAMETERS
    monkeypatch.setattr("isentropic.learner.estimate.KEEP_GATHERED_BYTES", 0)
    rest = 8 // 2  # the last norm, over two layers
    assert estimate_rank_bytes(qwen(True), LEARNER).gathered == 2 * (128 + 2 * (LAYER + rest))
    assert estimate_rank_bytes(qwen(False), LEARNER).gathered == 2 * (256 + 2 * (LAYER + rest))


def test_the_peak_is_the_largest_of_what_comes_one_after_the_other():
    rank = estimate_rank_bytes(qwen(True), LEARNER)
    standing = rank.state + max(rank.gradients, rank.unsharded) + rank.gathered
    assert rank.total == standing + rank.activations + max(rank.logits, rank.layer)


def test_the_books_of_the_entropy_ledger():
    """Two copies more while tokens are scored in float32: all weights, a layer's values, the states."""
    rank = estimate_rank_bytes(qwen(True), LEARNER, books=True)
    assert rank.books == 2 * rank.gradients and rank.books_on_host == 6 * rank.gradients
    values = 100 * (14 * 8 + 4 * 10) + 100 * 8
    assert rank.scoring == 4 * (PARAMETERS + values)
    without = estimate_rank_bytes(qwen(True), LEARNER)
    assert (without.books, without.scoring, without.books_on_host) == (0, 0, 0)
    assert rank.total == max(without.total, rank.state + rank.books + rank.scoring)


def test_a_pass_of_the_books_may_be_the_peak():
    """With checkpointed layers and adapters an update itself needs little."""
    tight = learner(gradient_checkpointing=True, unsharded_gradient_gib=0.0, microbatch_tokens=4)
    rank = estimate_rank_bytes(qwen(True), tight, books=True)
    shard = 4 * EMBEDDING // 2  # the largest; 13 of it while it is summed up in float64
    assert rank.scoring == max(13 * shard, 4 * (PARAMETERS + 4 * (14 * 8 + 4 * 10) + 4 * 8))
    assert rank.total == rank.state + rank.books + rank.scoring


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_takes_larger_tiles_in_any_type(monkeypatch, dtype):
    """100 tokens by 5 columns are 500 logits, three of each in float32; a CPU's tile holds 64."""
    monkeypatch.setattr("isentropic.learner.estimate.MAX_TILE", 64)
    gpu, cpu = (
        estimate_rank_bytes(qwen(True), learner(dtype=dtype), on_gpu=on_gpu).logits
        for on_gpu in (True, False)
    )
    assert gpu - cpu == 3 * 4 * (500 - 64)


def test_a_sequence_longer_than_a_microbatch_has_one_of_its_own():
    longer = estimate_rank_bytes(qwen(True), learner(microbatch_tokens=200))
    assert estimate_rank_bytes(qwen(True), LEARNER, longest=200) == longer


def test_bytes_of_ranks_that_share_tokens_and_of_replicas():
    """A replica holds everything once; two ranks that share a microbatch have half of its tokens each."""
    values = {"num_ranks": 8, "replicas": 1, "context_parallel": 1, "dtype": "float32"}
    values |= {"gradient_checkpointing": False, "microbatch_tokens": 100, "vocab_chunk": 5}
    values |= {"unsharded_gradient_gib": 1.0, "lora": None}
    alone, shared, replicas = (
        estimate_rank_bytes(qwen(True), SimpleNamespace(**values | changes))
        for changes in ({}, {"context_parallel": 2}, {"replicas": 4})
    )
    assert 2 * shared.activations == alone.activations
    assert (shared.weights, replicas.weights) == (alone.weights, 4 * alone.weights)
    assert replicas.activations == alone.activations


def test_peak_of_known_devices():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("Quadro") is None


@pytest.mark.parametrize(
    ("model", "width"),
    [
        pytest.param(qwen(True), 10, id="intermediate_size"),
        pytest.param(GPT2Config(n_embd=8, n_head=2), 32, id="GPT-2: four times the layer's"),
        pytest.param(GPT2Config(n_embd=8, n_head=2, n_inner=20), 20, id="GPT-2: n_inner"),
        pytest.param(OPTConfig(hidden_size=8, ffn_dim=24, num_attention_heads=2), 24, id="OPT"),
    ],
)
def test_the_mlp_s_width_has_many_names(model, width):
    assert mlp_width(model) == width
    assert head_size(model) == 4


def test_a_model_without_heads_has_no_attention_to_count():
    class Heads:
        hidden_size, num_attention_heads, kv_lora_rank = 8, 2, 512

    assert head_size(SimpleNamespace(hidden_size=8)) is None
    assert head_size(Heads) is None  # multi-head latent attention keeps something else


def test_adapters_need_no_gradients_or_moments_of_the_frozen_weights():
    """Rank 2 on q_proj, 8 x 8, and down_proj, 10 to 8, of two layers: 2 * 2 * (16 + 18) values."""
    lora = LoraConfig(rank=2, alpha=4.0, targets=("q_proj", "down_proj"))
    whole = LEARNER
    adapted = SimpleNamespace(**vars(whole) | {"lora": lora})
    assert count_trained(qwen(True), lora) == 136
    rank = estimate_rank_bytes(qwen(True), adapted, reference=True)
    assert rank.weights == 2 * (PARAMETERS + 136)
    assert (rank.gradients, rank.optimizer) == (2 * 136, 4 * 136)
    assert (rank.gathered, rank.unsharded) == (2 * (PARAMETERS + 136), 4 * 136)
    assert rank.reference == 0, "it is the trained model itself"
    assert rank.total < estimate_rank_bytes(qwen(True), whole).total


def test_flops_of_a_frozen_model():
    """No products for the gradients of weights: two passes over them, three over attention."""
    attention = 2 * (2 * 2 * 10 / 2 * 8)
    assert flops_per_token(qwen(True), 10, frozen=True) == 2 * 2 * PARAMETERS + 3 * attention
