"""What a learner rank will need, before anything is loaded: bytes, and operations per token."""

from dataclasses import dataclass, fields

import torch
from transformers import PretrainedConfig

from isentropic.config import LearnerConfig, LoraConfig
from isentropic.learner.model import count_parameters, count_vision_parameters, model_class
from isentropic.learner.sharding import KEEP_GATHERED_BYTES, may_stand_unsharded
from isentropic.models.adapters import count_adapter_parameters
from isentropic.objectives.tokens.statistics import CUDA_TILE, MAX_TILE

# Hidden-sized values that a token keeps in a layer for the backward pass, besides four of the MLP's
# width. What autograd saves was counted: 14 on Qwen3, 11 on Llama, at any width.
ACTIVATIONS_PER_LAYER = 16
MLP_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
PEAK_BF16_FLOPS = {  # dense, by a part of the device's name
    "B200": 2250e12,
    "H100": 989e12,
    "H200": 989e12,
    "H800": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "4090": 165e12,
}
TILES_AT_ONCE = 3  # logits, their exponentials, one product


@dataclass(frozen=True, slots=True, kw_only=True)
class RankBytes:
    """Bytes of one rank at the peak of an update; activations and gathered weights are rough."""

    weights: int  # this rank's share, float32
    gradients: int
    optimizer: int  # AdamW's two moments
    gathered: int  # whole weights and their gradients while they are used
    activations: int  # of this rank's part of one microbatch
    tile: int  # logits of one tile of the token statistics
    reference: int  # share of the frozen model, if there is one

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


def estimate_rank_bytes(
    model: PretrainedConfig, learner: LearnerConfig, *, reference: bool = False
) -> RankBytes:
    """The memory of one rank of `learner.num_ranks` that train the model of this config."""
    width = getattr(torch, learner.dtype).itemsize
    parameters = count_parameters(model)
    trained = parameters if learner.lora is None else count_trained(model, learner.lora)
    frozen = 0 if learner.lora is None else parameters
    model = model.get_text_config(decoder=True)
    shards = learner.num_ranks // learner.replicas
    share = 4 * -(-trained // shards)
    frozen_share = 4 * -(-frozen // shards)
    tokens = -(-learner.microbatch_tokens // learner.context_parallel)
    embedding = model.vocab_size * model.hidden_size
    layer = max(0, parameters - embedding) // model.num_hidden_layers
    # Two layers while one is gathered ahead, and what stands outside the layers; or everything, if
    # that is little. Adapters, which are little too, count whole.
    gathered = (
        parameters if parameters * width <= KEEP_GATHERED_BYTES else 2 * embedding + 2 * layer
    ) + (trained if frozen else 0)
    # Gradients of all microbatches but the last are summed unsharded, in float32; or else those of
    # one layer at a time are, until they are reduced.
    unsharded = 4 * (trained if may_stand_unsharded(trained, learner) else embedding + layer)
    per_token = ACTIVATIONS_PER_LAYER * model.hidden_size + 4 * mlp_width(model)
    layers = model.num_hidden_layers
    kept = (
        per_token * layers
        if not learner.gradient_checkpointing
        else model.hidden_size * layers + per_token
    )
    return RankBytes(
        weights=share + frozen_share,
        gradients=share,
        optimizer=2 * share,
        gathered=gathered * width + unsharded,
        activations=kept * tokens * width,
        tile=TILES_AT_ONCE
        * 4
        * min(
            MAX_TILE if learner.dtype == "float32" else CUDA_TILE,  # half precision is of GPUs
            tokens * min(learner.vocab_chunk, model.vocab_size),
        ),
        # With adapters the reference is the frozen model itself.
        reference=share if reference and not frozen else 0,
    )


def count_trained(model: PretrainedConfig, lora: LoraConfig) -> int:
    """Counts the parameters of the adapters that the model of this config would get.

    Raises ValueError if they do not fit the model, as `target_layers`.
    """
    with torch.device("meta"):
        lm = model_class(model).from_config(model)
    return count_adapter_parameters(lm, lora)


def mlp_width(model: PretrainedConfig) -> int:
    """Width of a layer's MLP by any of its names, or four times the hidden size if it has none."""
    named = (getattr(model, name, None) for name in MLP_WIDTHS)
    return next((width for width in named if isinstance(width, int)), 4 * model.hidden_size)


def head_size(model: PretrainedConfig) -> int | None:
    """Dimensions of an attention head; None if the cache holds no heads (Mamba, MLA)."""
    heads = getattr(model, "num_attention_heads", None)
    if not heads or getattr(model, "kv_lora_rank", None):
        return None
    return getattr(model, "head_dim", None) or model.hidden_size // heads


def peak_flops(device_name: str) -> float | None:
    """The device's dense bfloat16 peak in operations per second; None if it is not in the table."""
    return next((peak for part, peak in PEAK_BF16_FLOPS.items() if part in device_name), None)


def flops_per_token(
    model: PretrainedConfig, length: float, *, backward: bool = True, frozen: bool = False
) -> float:
    """Model operations per token in a sequence of `length` tokens, to compare with a device's peak.

    Two for each weight that multiplies (the embedding's does not), and the two products of causal
    attention, which see half the sequence on average; times three with the backward pass. Work that
    is done twice (gradient checkpointing, tiles computed again) does not count, nor does that of a
    vision tower. If the weights are `frozen`, the backward pass makes no gradients of theirs.
    """
    of_weights, of_attention = _forward_flops(model)
    if backward and frozen:
        return 2 * of_weights + 3 * of_attention * length
    return (of_weights + of_attention * length) * (3 if backward else 1)


def attention_share(model: PretrainedConfig) -> float:
    """Operations of a token's attention per token of its sequence, over those of its weights.

    A sequence of L tokens costs as much as L * (1 + attention_share * L) tokens without attention.
    """
    of_weights, of_attention = _forward_flops(model)
    return of_attention / of_weights


def _forward_flops(model: PretrainedConfig) -> tuple[int, int]:
    """Operations per token of the weights, and of attention per token of the sequence."""
    tower = count_vision_parameters(model)
    whole, model = model, model.get_text_config(decoder=True)
    heads = getattr(model, "num_attention_heads", 0)
    head_dim = getattr(model, "head_dim", None) or (model.hidden_size // heads if heads else 0)
    weights = count_parameters(whole) - tower
    if not model.tie_word_embeddings:
        weights -= model.vocab_size * model.hidden_size
    return 2 * weights, model.num_hidden_layers * 2 * heads * head_dim
