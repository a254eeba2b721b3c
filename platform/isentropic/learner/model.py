"""A Hugging Face causal LM that reads packed tokens and answers with token statistics."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from isentropic.config import ModelConfig
from isentropic.learner import attention
from isentropic.objectives.token_statistics import TokenStatistics, token_statistics

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

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's layers, the units of sharding."""
        return self.lm.get_decoder().layers

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        cu_seqlens: Tensor,
        predict: Tensor,
        target: Tensor,
        *,
        max_length: int,
    ) -> TokenStatistics:
        """Statistics [N] of the response tokens, at the training temperature.

        Args:
            token_ids, position_ids: [T] int64.
            cu_seqlens: [S + 1] int32.
            predict: [N] positions in T of the states that predict the targets; target: [N] token ids.
            max_length: of the longest sequence.
        """
        hidden = self.lm.get_decoder()(
            input_ids=token_ids[None],
            position_ids=position_ids[None],
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
            bias=head.bias,
        )


def read_config(model: ModelConfig) -> PretrainedConfig:
    """The model's own config, checked: no dropout, no change to its logits, a window that is long enough."""
    if Path(model.path).is_absolute() and not Path(model.path).is_dir():
        raise ValueError(f"model.path {model.path} is not a folder. Give a Hugging Face model's folder or Hub name.")
    config = AutoConfig.from_pretrained(
        model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
    ).get_text_config(decoder=True)
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
        raise ValueError(f"model.max_length is {model.max_length}, but {model.name} has a window of {window} tokens.")
    for name, value in vars(config).items():
        # The old-policy pass and the update must see the same network.
        if ("drop" in name or name.endswith("pdrop")) and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


def load_model(model: ModelConfig, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The causal LM with its weights in `dtype`, packed attention, no dropout.

    Raises ValueError where it is no decoder with an output layer, or where weights are missing from its files.
    """
    attention.register()
    logging.disable_progress_bar()
    config = read_config(model)
    lm, loading = AutoModelForCausalLM.from_pretrained(
        model.path,
        config=config,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        dtype=dtype,
        attn_implementation=attention.NAME,
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
    if decoder is None or decoder is lm or not isinstance(getattr(decoder, "layers", None), nn.ModuleList):
        raise ValueError(
            f"{type(lm).__name__} has no decoder with layers; only decoder-only causal LMs can be trained."
        )
    if not isinstance(head, nn.Linear):
        raise ValueError(f"{type(lm).__name__} has no linear output layer, got {type(head).__name__}.")


def count_parameters(config: PretrainedConfig) -> int:
    """Parameters of the model that `config` describes, without making it; tied weights once."""
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(config)
    return sum(math.prod(parameter.shape) for parameter in lm.parameters())
