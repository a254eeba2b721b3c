"""A Hugging Face causal LM that reads packed tokens and answers with token statistics."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from isentropic.config import ModelConfig
from isentropic.images import BANNED, banned_tokens, reads_images
from isentropic.learner import attention
from isentropic.learner.images import ImageInputs
from isentropic.models.pretrained import load_config, source
from isentropic.objectives.tokens.statistics import TokenStatistics, token_statistics

# What some architectures do to their logits, and the value that means: nothing.
LOGIT_CHANGES = {
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "lm_head_multiplier": 1.0,
}


class PackedModel(nn.Module):
    """A causal LM whose output layer is applied where a response token is predicted, and nowhere else.

    It is the root of FSDP: the output layer's weight, which the LM's own forward would read, is gathered for the
    whole of this forward and of its backward.
    """

    def __init__(self, lm: PreTrainedModel, *, temperature: float, vocab_chunk: int) -> None:
        super().__init__()
        self.lm = lm
        self.temperature, self.vocab_chunk = temperature, vocab_chunk
        self.reads_images = reads_images(lm.config)
        self._banned = banned_tokens(lm.config)

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's layers, the units of sharding."""
        return self.lm.get_decoder().layers

    @property
    def vision_layers(self) -> list[nn.Module]:
        """The vision tower's layers, further units of sharding; none where the model reads text alone."""
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
        """Statistics [N] of the response tokens, at the training temperature.

        Args:
            token_ids, position_ids: [T] int64.
            cu_seqlens: [S + 1] int32.
            predict: [N] positions in T of the states that predict the targets; target: [N] token ids.
            max_length: of the longest sequence.
            images: for a model that reads images, always, whether or not this microbatch has any.
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
        )

    def _inputs(
        self, token_ids: Tensor, position_ids: Tensor, images: ImageInputs | None
    ) -> dict[str, Tensor]:
        """Of the decoder. The vision tower runs in every microbatch of its model: FSDP's collectives are in it."""
        if images is None:
            assert not self.reads_images, "a model that reads images was given none of their inputs"
            return {"input_ids": token_ids[None], "position_ids": position_ids[None]}
        embeddings = self.lm.get_input_embeddings()(token_ids)
        features = self.lm.model.get_image_features(
            images.pixels, images.grid, return_dict=True
        ).pooler_output
        features = torch.cat(features).to(embeddings.dtype)
        # Where no token is an image this changes nothing, and the tower's gradient is zero rather than absent.
        embeddings = embeddings.index_copy(
            0, images.place, features.index_select(0, images.feature)
        )
        return {"inputs_embeds": embeddings[None], "position_ids": images.position_ids[:, None]}

    def _bias(self, head: nn.Linear) -> Tensor | None:
        """[V] of the output layer; tokens that the engine may not sample have no probability here either."""
        if not self._banned:
            return head.bias
        banned = torch.zeros(
            head.weight.shape[0], dtype=head.weight.dtype, device=head.weight.device
        )
        banned[list(self._banned)] = BANNED
        return banned if head.bias is None else banned + head.bias


def read_config(model: ModelConfig) -> PretrainedConfig:
    """The model's own config, checked: no dropout, no change to its logits, a window that is long enough."""
    if Path(model.path).is_absolute() and not Path(model.path).is_dir():
        raise ValueError(
            f"model.path {model.path} is not a folder. Give a Hugging Face model's folder or Hub name."
        )
    whole = load_config(model)
    config = whole.get_text_config(decoder=True)  # a part of `whole`, not a copy
    changed = {
        name: getattr(config, name)
        for name, nothing in LOGIT_CHANGES.items()
        if getattr(config, name, nothing) not in (nothing, None)
    }
    if changed:
        told = ", ".join(f"{name}={value}" for name, value in changed.items())
        raise ValueError(
            f"model {model.name} changes its logits ({told}), which the token statistics do not follow. "
            "Choose a model without it."
        )
    window = getattr(config, "max_position_embeddings", None)
    if window is not None and model.max_length > window:
        raise ValueError(
            f"model.max_length is {model.max_length}, but {model.name} has a window of {window} tokens."
        )
    for name, value in vars(config).items():
        # The old-policy pass and the update must see the same network.
        if ("drop" in name or name.endswith("pdrop")) and isinstance(value, float):
            setattr(config, name, 0.0)
    return whole if reads_images(whole) else config


def load_model(model: ModelConfig, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The causal LM with its weights in `dtype`, packed attention, no dropout.

    Raises ValueError where it is no decoder with an output layer, or where weights are missing from its files.
    """
    attention.register()
    logging.disable_progress_bar()
    config = read_config(model)
    lm, loading = model_class(config).from_pretrained(
        **source(model),
        config=config,
        dtype=dtype,
        # The vision tower cuts its own sequences, windows of an image, and attends to both sides.
        attn_implementation={
            "": attention.NAME,
            "text_config": attention.NAME,
            "vision_config": "sdpa",
        }
        if reads_images(config)
        else attention.NAME,
        output_loading_info=True,
    )
    if loading["missing_keys"] or loading["mismatched_keys"]:
        raise ValueError(
            f"model {model.path}: its files lack or misshape {sorted(map(str, loading['missing_keys']))[:5]} "
            f"{sorted(map(str, loading['mismatched_keys']))[:5]}; they would start at random. Check the download."
        )
    check_decoder(lm)
    for module in lm.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return lm.eval()


def check_decoder(lm: PreTrainedModel) -> None:
    """The packed forward needs a decoder with `layers`, and an output layer with a weight [V, D]."""
    decoder = lm.get_decoder() if hasattr(lm, "get_decoder") else None
    head = lm.get_output_embeddings()
    if (
        decoder is None
        or decoder is lm
        or not isinstance(getattr(decoder, "layers", None), nn.ModuleList)
    ):
        raise ValueError(
            f"{type(lm).__name__} has no decoder with layers; only decoder-only causal LMs can be trained."
        )
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"{type(lm).__name__} has no linear output layer, got {type(head).__name__}."
        )


def model_class(config: PretrainedConfig) -> type:
    """transformers' class that makes the model of this config, with its vision tower where it reads images."""
    return AutoModelForImageTextToText if reads_images(config) else AutoModelForCausalLM


def count_parameters(config: PretrainedConfig) -> int:
    """Parameters of the model that `config` describes, without making it; tied weights once, a vision tower too."""
    with torch.device("meta"):
        lm = model_class(config).from_config(config)
    return sum(math.prod(parameter.shape) for parameter in lm.parameters())


def count_vision_parameters(config: PretrainedConfig) -> int:
    """Of them those of the vision tower; 0 where the model reads text alone."""
    if not reads_images(config):
        return 0
    with torch.device("meta"):
        tower = model_class(config).from_config(config).model.visual
    return sum(math.prod(parameter.shape) for parameter in tower.parameters())
