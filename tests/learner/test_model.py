"""Models that cannot be scored exactly are refused before any training."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma2Config,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from isentropic.config import ModelConfig
from isentropic.learner.model import PackedModel, count_parameters, load_model, read_config

SIZES = {
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "initializer_range": 0.5,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
QWEN = Qwen3Config(head_dim=4, attention_dropout=0.3, tie_word_embeddings=False, **SIZES)


@pytest.fixture
def model(tmp_path):
    return ModelConfig(
        name="some",
        path=str(tmp_path),
        revision=None,
        max_length=16,
        trust_remote_code=False,
        warm_start=None,
        image_pixels=None,
    )


def test_dropout_is_off(model):
    QWEN.save_pretrained(model.path)
    assert read_config(model).attention_dropout == 0.0


def test_capped_logits_are_refused(model):
    Gemma2Config(
        num_hidden_layers=1, final_logit_softcapping=30.0, attn_logit_softcapping=None
    ).save_pretrained(model.path)
    with pytest.raises(ValueError, match=r"changes its logits \(final_logit_softcapping=30.0\)"):
        read_config(model)


def test_too_short_a_window_is_refused(model):
    QWEN.save_pretrained(model.path)
    with pytest.raises(ValueError, match=r"max_length is 33, but some has a window of 32 tokens"):
        read_config(replace(model, max_length=33))


def test_long_rope_beyond_its_short_factors_is_refused(model):
    """It would be switched for a whole pack, so that a short sequence is scored by what it lies beside."""
    factors = {"short_factor": [1.0, 1.0], "long_factor": [4.0, 4.0]}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16}
    Phi3Config(
        **SIZES, original_max_position_embeddings=16, rope_parameters=rope | factors
    ).save_pretrained(model.path)
    assert read_config(model).rope_parameters["rope_type"] == "longrope"
    with pytest.raises(ValueError, match=r"change at 16 tokens.* Set model\.max_length=16 or less"):
        read_config(replace(model, max_length=17))


def test_a_missing_folder_is_named(model):
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        read_config(replace(model, path=model.path + "/nowhere"))


def test_missing_weights_are_refused(model):
    Qwen3ForCausalLM(QWEN).save_pretrained(model.path)
    path = f"{model.path}/model.safetensors"
    weights = load_file(path)
    del weights["lm_head.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack or misshape \['lm_head.weight'\]"):
        load_model(model)


def test_another_architecture_is_refused(model):
    """GPT-2 keeps its layers elsewhere; its positions would count through the whole pack."""
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16)).save_pretrained(
        model.path
    )
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no decoder with layers"):
        load_model(model)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        pytest.param(
            LlamaForCausalLM,
            LlamaConfig(tie_word_embeddings=True, **SIZES),
            id="Llama, tied: SmolLM2",
        ),
        pytest.param(Qwen2ForCausalLM, Qwen2Config(**SIZES), id="Qwen2, biased projections"),
        pytest.param(Qwen3ForCausalLM, Qwen3Config(head_dim=4, **SIZES), id="Qwen3, head norms"),
    ],
)
def test_packed_equals_alone(kind, config, model):
    """Two sequences in one pack have the logprobs that each has by itself, at temperature 0.5."""
    torch.manual_seed(0)
    plain = kind(config)
    plain.save_pretrained(model.path)
    packed = PackedModel(load_model(model), temperature=0.5, vocab_chunk=5)
    tokens = torch.randint(0, 16, (7,))
    target = tokens[[1, 2, 4, 5, 6]]
    found = packed(
        tokens,
        torch.tensor([0, 1, 2, 0, 1, 2, 3]),
        torch.tensor([0, 3, 7], dtype=torch.int32),
        torch.tensor([0, 1, 3, 4, 5]),
        target,
        max_length=4,
    )
    logits = torch.cat([plain(part[None]).logits[0, :-1] for part in tokens.split([3, 4])]) / 0.5
    expected = logits.log_softmax(-1).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(found.logprob, expected)


def test_parameters_are_counted_without_memory():
    assert count_parameters(QWEN) == sum(
        parameter.numel() for parameter in Qwen3ForCausalLM(QWEN).parameters()
    )
