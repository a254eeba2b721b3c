"""A Hugging Face causal LM that reads packed tokens and answers with token statistics."""

import copy
import math
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from isentropic.checks import within_window
from isentropic.config import ModelConfig
from isentropic.images import BANNED, banned_tokens, reads_images
from isentropic.learner import attention
from isentropic.learner.images import ImageInputs
from isentropic.models.pretrained import load_config, source
from isentropic.objectives.tokens.statistics import TokenStatistics, token_statistics

# What some architectures do to their logits, each with the value that turns it off.
LOGIT_CHANGES = {
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "lm_head_multiplier": 1.0,
}

# By config: parameters, and those of experts.
_COUNTED: dict[str, tuple[int, int]] = {}


class PackedModel(nn.Module):
    """A causal LM whose output layer is applied only where a response token is predicted.

    It is the root of FSDP: the output layer's weight, which the LM's own forward would read, is
    gathered for the whole of this forward and of its backward.
    """

    def __init__(
        self, lm: PreTrainedModel, *, temperature: float, vocab_chunk: int, head: str = "torch"
    ) -> None:
        super().__init__()
        self.lm = lm
        self.temperature = temperature
        self.vocab_chunk = vocab_chunk
        self.head = head
        self.reads_images = reads_images(lm.config)
        self._banned = banned_tokens(lm.config)

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's layers, the units of sharding."""
        return self.lm.get_decoder().layers

    @property
    def vision_layers(self) -> list[nn.Module]:
        """The vision tower's layers, further units of sharding; none for a text-only model."""
        return list(self.lm.model.visual.blocks) if self.reads_images else []

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        cu_seqlens: Tensor,
        predict: Tensor,
        target: Tensor,
        *,
        max_length: int,
        images: ImageInputs | None = None,
    ) -> TokenStatistics:
        """Computes the statistics [N] of the response tokens, at the training temperature.

        Args:
            token_ids, position_ids: [T] int64.
            cu_seqlens: [S + 1] int32.
            predict: [N] positions in T of the states that predict the targets.
            target: [N] token ids.
            max_length: tokens of the longest sequence.
            images: required by a model that reads images, even if this microbatch has none.
        """
        hidden = self.lm.get_decoder()(
            **self._inputs(token_ids, position_ids, images),
            use_cache=False,
            cu_seq_lens_q=cu_seqlens,
            cu_seq_lens_k=cu_seqlens,
            max_length_q=max_length,
            max_length_k=max_length,
        ).last_hidden_state[0]
        head = self.lm.get_output_embeddings()
        return token_statistics(
            hidden.index_select(0, predict),
            head.weight,
            target,
            temperature=self.temperature,
            vocab_chunk=self.vocab_chunk,
            bias=self._bias(head),
            head=self.head,
        )

    def _inputs(
        self, token_ids: Tensor, position_ids: Tensor, images: ImageInputs | None
    ) -> dict[str, Tensor]:
        """Makes the decoder's inputs.

        The vision tower runs even in a microbatch without an image: FSDP's collectives are in it,
        and a rank that left it out would leave the others waiting.
        """
        if images is None:
            assert not self.reads_images, "a model that reads images was given none of their inputs"
            return {"input_ids": token_ids[None], "position_ids": position_ids[None]}
        embeddings = self.lm.get_input_embeddings()(token_ids)
        features = self.lm.model.get_image_features(
            images.pixels, images.grid, return_dict=True
        ).pooler_output
        features = torch.cat(features).to(embeddings.dtype)
        # If no token is an image this changes nothing, but the tower gets a gradient, of zero.
        features = features.index_select(0, images.feature)
        embeddings = embeddings.index_copy(0, images.place, features)
        return {"inputs_embeds": embeddings[None], "position_ids": images.position_ids[:, None]}

    def _bias(self, head: nn.Linear) -> Tensor | None:
        """Returns the output layer's bias [V], with the tokens banned that no engine samples."""
        if not self._banned:
            return head.bias
        banned = torch.zeros(
            head.weight.shape[0], dtype=head.weight.dtype, device=head.weight.device
        )
        banned[list(self._banned)] = BANNED
        return banned if head.bias is None else banned + head.bias


def read_config(model: ModelConfig) -> PretrainedConfig:
    """Reads the model's config: no dropout, logits unchanged, a window that is long enough."""
    if Path(model.path).is_absolute() and not Path(model.path).is_dir():
        raise ValueError(
            f"model.path {model.path} is not a folder. "
            "Give a Hugging Face model's folder or Hub name."
        )
    whole = load_config(model)
    config = whole.get_text_config(decoder=True)  # a part of `whole`, not a copy
    changed = {
        name: getattr(config, name)
        for name, nothing in LOGIT_CHANGES.items()
        if getattr(config, name, nothing) not in (nothing, None)
    }
    if changed:
        changes = ", ".join(f"{name}={value}" for name, value in changed.items())
        raise ValueError(
            f"model {model.name} changes its logits ({changes}), which the token statistics do not "
            "follow. Choose a model that does not."
        )
    window = getattr(config, "max_position_embeddings", None)
    if window is not None and model.max_length > window:
        raise ValueError(
            f"model.max_length is {model.max_length}, but {model.name} has a window of {window} "
            f"tokens. {within_window(window)}"
        )
    check_rope(model, config)
    # No dropout, and no noise in front of routers: the old-policy pass and the update must see the
    # same network.
    for name, value in vars(config).items():
        if ("drop" in name or name.endswith("jitter_noise")) and isinstance(value, float):
            setattr(config, name, 0.0)
    return whole if reads_images(whole) else config


def check_rope(model: ModelConfig, config: PretrainedConfig) -> None:
    """Refuses LongRoPE beyond the length up to which its short factors count.

    transformers chooses the factors for a whole forward pass, by its longest sequence: a sequence's
    logprobs would depend on those that are packed with it.
    """
    given = getattr(config, "rope_parameters", None) or {}
    by_layer_type = all(isinstance(value, dict) for value in given.values())
    for rope in given.values() if by_layer_type else [given]:
        short = rope.get("original_max_position_embeddings")
        if rope.get("rope_type") == "longrope" and short and model.max_length > short:
            raise ValueError(
                f"model {model.name} has LongRoPE, whose factors change at {short} tokens, and "
                f"model.max_length is {model.max_length}: packed sequences of both kinds would be "
                f"scored with the same factors. Set model.max_length={short} or less, and "
                "rollout.max_prompt_tokens and rollout.max_response_tokens to add up to it."
            )


def load_model(model: ModelConfig, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Loads the whole causal LM on the host, weights in `dtype`, packed attention, no dropout.

    Raises ValueError if it is no decoder with an output layer, or if its files lack weights.
    """
    logging.disable_progress_bar()
    config = read_config(model)
    lm, loading = model_class(config).from_pretrained(
        **source(model),
        config=config,
        dtype=dtype,
        attn_implementation=_attention(config),
        output_loading_info=True,
    )
    if loading["missing_keys"] or loading["mismatched_keys"]:
        missing = sorted(map(str, loading["missing_keys"]))[:5]
        misshapen = sorted(map(str, loading["mismatched_keys"]))[:5]
        raise ValueError(
            f"model {model.path}: its files lack or misshape {missing} {misshapen}; "
            "they would start at random. Check the download."
        )
    return _prepared(lm)


def empty_model(model: ModelConfig) -> PreTrainedModel:
    """Builds what `load_model` does on the meta device: shapes in float32, no memory, no weights.

    Raises ValueError if it is no decoder with an output layer.
    """
    config = read_config(model)
    with torch.device("meta"):
        lm = model_class(config).from_config(
            config,
            dtype=torch.float32,
            attn_implementation=_attention(config),
            trust_remote_code=model.trust_remote_code,
        )
    # It has settings that config.json lacks, and an exported folder needs them. A model may have
    # none: then it is made from its config.
    with suppress(OSError):
        lm.generation_config = GenerationConfig.from_pretrained(model.path, revision=model.revision)
    return _prepared(lm)


def _attention(config: PretrainedConfig) -> str | dict[str, str]:
    """Registers packed attention and returns which attention each part of the model gets."""
    attention.register()
    if not reads_images(config):
        return attention.NAME
    # The vision tower cuts an image into windows of its own and attends to both sides: packed
    # attention, which is causal, would be wrong there.
    return {"": attention.NAME, "text_config": attention.NAME, "vision_config": "sdpa"}


def _prepared(lm: PreTrainedModel) -> PreTrainedModel:
    check_decoder(lm)
    for module in lm.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return lm.eval()


def check_decoder(lm: PreTrainedModel) -> None:
    """Refuses a model without a decoder with `layers` or an output layer with a weight [V, D].

    The packed forward calls both.
    """
    decoder = lm.get_decoder() if hasattr(lm, "get_decoder") else None
    head = lm.get_output_embeddings()
    layers = None if decoder is lm else getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(
            f"{type(lm).__name__} has no decoder with layers; "
            "only decoder-only causal LMs can be trained."
        )
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"{type(lm).__name__} has no linear output layer, got {type(head).__name__}."
        )


def check_trainable(config: PretrainedConfig, *, trust_remote_code: bool = False) -> None:
    """Refuses an architecture that cannot be packed, by its shapes alone: no weights are read.

    Raises:
        ValueError: names the architecture and what in it cannot be packed.
    """
    calls = attention.register_probe()
    by_part = {"": attention.PROBE, "text_config": attention.PROBE, "vision_config": "sdpa"}
    try:
        with torch.device("meta"):
            lm = model_class(config).from_config(
                copy.deepcopy(config),
                # The experts of some models come in no other type.
                dtype=torch.bfloat16,
                attn_implementation=by_part if reads_images(config) else attention.PROBE,
                trust_remote_code=trust_remote_code,
            )
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"a {config.model_type} model cannot be made with packed attention "
            f"({type(error).__name__}: {reason}). {attention.ADVICE}"
        ) from error
    check_decoder(lm)
    attention.check_packing(lm, calls)


def model_class(config: PretrainedConfig) -> type:
    """Returns the transformers class for this config, with a vision tower if it reads images."""
    return AutoModelForImageTextToText if reads_images(config) else AutoModelForCausalLM


def count_parameters(config: PretrainedConfig) -> int:
    """Counts the parameters of the model that `config` describes, without making it.

    Tied weights count once; a vision tower counts too.
    """
    return _counted(config)[0]


def count_idle_parameters(config: PretrainedConfig) -> float:
    """Counts the parameters of experts that a token is not sent to: all but k of E in each layer."""
    text = config.get_text_config(decoder=True)
    experts = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
    chosen = getattr(text, "num_experts_per_tok", None)
    if not (experts and chosen):
        return 0.0
    return _counted(config)[1] * (1 - chosen / experts)


def _counted(config: PretrainedConfig) -> tuple[int, int]:
    # By what it says: it can be changed. A plan asks many times, for billions of parameters.
    text = config.to_json_string(use_diff=False)
    if text not in _COUNTED:
        with torch.device("meta"):
            lm = model_class(config).from_config(config)
        sizes = {name: math.prod(each.shape) for name, each in lm.named_parameters()}
        of_experts = sum(size for name, size in sizes.items() if ".experts." in name)
        _COUNTED[text] = (sum(sizes.values()), of_experts)
    return _COUNTED[text]


def count_vision_parameters(config: PretrainedConfig) -> int:
    """Counts the parameters of the vision tower; 0 for a text-only model."""
    if not reads_images(config):
        return 0
    with torch.device("meta"):
        tower = model_class(config).from_config(config).model.visual
    return sum(math.prod(parameter.shape) for parameter in tower.parameters())
