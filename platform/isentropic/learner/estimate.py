"""What a learner rank will need, before anything is loaded: bytes, and operations per token."""

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from isentropic.config import LearnerConfig, LoraConfig
from isentropic.learner.books.update import AT_WORK, ON_DEVICE, ON_HOST
from isentropic.learner.model import (
    count_idle_parameters,
    count_parameters,
    count_vision_parameters,
    model_class,
)
from isentropic.learner.sharding import KEEP_GATHERED_BYTES, may_stand_unsharded
from isentropic.models.adapters import count_adapter_parameters
from isentropic.objectives.tokens.statistics import CUDA_TILE, MAX_TILE

# Hidden-sized values that a token keeps in a layer for the backward pass, besides four of the MLP's
# width. What autograd saves was counted: 14 on Qwen3, 11 on Llama, at any width.
ACTIVATIONS_PER_LAYER = 14
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
BYTES_PER_SECOND = {  # of the device's memory
    "B200": 8.0e12,
    "H100": 3.35e12,
    "H200": 4.8e12,
    "H800": 3.35e12,
    "GH200": 4.0e12,
    "A100": 2.0e12,
    "A800": 2.0e12,
    "L40S": 0.86e12,
    "4090": 1.0e12,
}
TILES_AT_ONCE = 3  # logits, their exponentials, one product


@dataclass(frozen=True, slots=True, kw_only=True)
class RankBytes:
    """Bytes of one rank in an update, by what they are for; `total` is the peak.

    Logits, a layer's gradients and those of embedding and output layer come one after the other.
    The entropy ledger's books score tokens after an update: their passes have no gradients.
    """

    weights: int  # this rank's share, float32
    gradients: int  # same, reduced over the ranks
    optimizer: int  # AdamW's two moments
    reference: int  # share of the frozen model, if there is one
    gathered: int  # whole weights while they are used
    unsharded: int  # whole gradients, summed over microbatches in float32
    activations: int  # of one microbatch, kept for the backward pass
    logits: int  # tiles, and the gradients that are summed over them
    layer: int  # what one layer's backward pass needs beside
    ends: int  # gradients of embedding and output layer on their way to the other ranks
    books: int = 0  # copies of this rank's share while the books score tokens; 0 without books
    scoring: int = 0  # what a pass of theirs needs beside, or a shard that is summed up
    books_on_host: int = 0  # further copies, in host memory

    @property
    def state(self) -> int:
        """What is there between calls, too."""
        return self.weights + self.optimizer + self.reference

    @property
    def total(self) -> int:
        # The last microbatch turns the ones into the others.
        standing = self.state + max(self.gradients, self.unsharded) + self.gathered
        update = standing + max(self.activations + max(self.logits, self.layer), self.ends)
        return max(update, self.state + self.books + self.scoring if self.books else 0)


def estimate_rank_bytes(
    model: PretrainedConfig,
    learner: LearnerConfig,
    *,
    longest: int = 0,
    reference: bool = False,
    on_gpu: bool = True,
    books: bool = False,
) -> RankBytes:
    """The memory of one rank of `learner.num_ranks` that train the model of this config.

    Args:
        longest: tokens of the longest sequence: it has a microbatch of its own, if need be.
        books: the entropy ledger measures steps.
    """
    width = getattr(torch, learner.dtype).itemsize
    parameters = count_parameters(model)
    adapters = learner.lora is not None
    trained = count_trained(model, learner.lora) if adapters else parameters
    frozen = parameters if adapters else 0
    tied = is_tied(model)
    model = model.get_text_config(decoder=True)
    shards = learner.num_ranks // learner.replicas
    tokens = -(-max(learner.microbatch_tokens, longest) // learner.context_parallel)
    share, frozen_share = (4 * -(-count // shards) for count in (trained, frozen))
    embedding = model.vocab_size * model.hidden_size
    outside = min(parameters, embedding * (1 if tied else 2))
    layers = model.num_hidden_layers
    layer = (parameters - outside) // layers
    per_layer = tokens * (ACTIVATIONS_PER_LAYER * model.hidden_size + 4 * mlp_width(model)) * width
    between = tokens * model.hidden_size * width
    checkpointing = learner.gradient_checkpointing
    kept = between * layers if checkpointing else per_layer * layers
    everything = parameters * width <= KEEP_GATHERED_BYTES
    unsharded = may_stand_unsharded(trained, learner)
    ends_trained = 0 if adapters else 1  # whether embedding and output layer have gradients
    # FSDP keeps the buffer of a microbatch's last reduction until the next one's first.
    held = 0 if unsharded else 4 * outside * ends_trained
    largest_tile = CUDA_TILE if on_gpu else MAX_TILE
    tile = min(largest_tile, tokens * min(learner.vocab_chunk, model.vocab_size))
    gathered = parameters if everything else outside + 2 * layer
    # In float32, whatever the learner's type. A shard is summed up when nothing is gathered.
    pass_in_float32 = 4 * (gathered + (trained if adapters else 0)) + 4 * (
        max(per_layer // width, TILES_AT_ONCE * tile) + tokens * model.hidden_size
    )
    largest_shard = min(share, 4 * -(-embedding // shards))
    return RankBytes(
        weights=share + frozen_share,
        gradients=share,
        optimizer=2 * share,
        # Adapters are small, and count whole.
        gathered=(gathered + (trained if adapters else 0)) * width,
        unsharded=4 * trained if unsharded else 0,
        activations=kept,
        # Sums in float32 for the gradients of the states and of the output layer, then a copy.
        logits=TILES_AT_ONCE * 4 * tile
        + (4 + width) * (ends_trained * embedding + tokens * model.hidden_size)
        + held,
        # Computed again, two gradients of the MLP's width, and the output layer's.
        layer=(per_layer if checkpointing else 0)
        + 2 * tokens * mlp_width(model) * width
        + width * ends_trained * embedding
        + held,
        # In their own type, whole in float32 on their way, a rank's share, and its sum over
        # microbatches. What checkpointing keeps is there to the end.
        ends=ends_trained * ((width + 4) * outside + 8 * -(-outside // shards))
        + (kept if checkpointing else 0),
        # With adapters the reference is the frozen model itself.
        reference=share if reference and not adapters else 0,
        books=ON_DEVICE * share if books else 0,
        scoring=max(pass_in_float32, AT_WORK * largest_shard) if books else 0,
        books_on_host=ON_HOST * share if books else 0,
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


def is_tied(model: PretrainedConfig) -> bool:
    """Whether embedding and output layer are one; a config with a vision part says it outside."""
    text = model.get_text_config(decoder=True)
    return bool(getattr(text, "tie_word_embeddings", getattr(model, "tie_word_embeddings", False)))


def head_size(model: PretrainedConfig) -> int | None:
    """Dimensions of an attention head; None if the cache holds no heads (Mamba, MLA)."""
    heads = getattr(model, "num_attention_heads", None)
    if not heads or getattr(model, "kv_lora_rank", None):
        return None
    return getattr(model, "head_dim", None) or model.hidden_size // heads


def peak_flops(device_name: str) -> float | None:
    """The device's dense bfloat16 peak in operations per second; None if it is not in the table."""
    return next((peak for part, peak in PEAK_BF16_FLOPS.items() if part in device_name), None)


def memory_speed(device_name: str) -> float | None:
    """Bytes per second that the device's memory gives; None if it is not in the table."""
    return next((rate for part, rate in BYTES_PER_SECOND.items() if part in device_name), None)


def flops_per_token(
    model: PretrainedConfig, length: float, *, backward: bool = True, frozen: bool = False
) -> float:
    """Model operations per token in a sequence of `length` tokens, to compare with a device's peak.

    Two for each weight that multiplies (the embedding's does not, nor do those of experts that the
    token is not sent to), and the two products of causal
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
    weights = count_parameters(whole) - tower - round(count_idle_parameters(whole))
    if not is_tied(whole):
        weights -= model.vocab_size * model.hidden_size
    return 2 * weights, model.num_hidden_layers * 2 * heads * head_dim
