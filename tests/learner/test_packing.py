"""Which architectures can be packed is found out by what their layers call, without weights."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GPT2Config,
    GPTNeoXConfig,
    JambaConfig,
    LlamaConfig,
    MambaConfig,
    OPTConfig,
    Qwen3Config,
    RecurrentGemmaConfig,
    RwkvConfig,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from isentropic.learner import attention
from isentropic.learner.model import check_trainable

SIZES = {
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": None,
}


def of(kind, **more):
    return AutoConfig.for_model(kind, **SIZES | more)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(LlamaConfig(**SIZES), id="Llama"),
        pytest.param(Qwen3Config(**SIZES), id="Qwen3"),
        pytest.param(of("qwen3_moe", num_experts=4, moe_intermediate_size=8), id="Qwen3 MoE"),
        pytest.param(of("mistral", sliding_window=8), id="Mistral, a window"),
        pytest.param(of("gemma3_text", sliding_window=8), id="Gemma 3, two kinds of layers"),
        pytest.param(GPTNeoXConfig(**SIZES), id="GPT-NeoX"),
        pytest.param(
            OPTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, ffn_dim=8),
            id="OPT",
        ),
    ],
)
def test_decoders_that_call_the_attention_interface(config):
    before = config.to_dict()
    check_trainable(config)
    assert config.to_dict() == before


MIXES = "mixes tokens by more than causal attention"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param(
            MambaConfig(hidden_size=32, num_hidden_layers=2),
            rf"MambaForCausalLM {MIXES} \(linear_attention\)",
            id="Mamba",
        ),
        pytest.param(JambaConfig(**SIZES), rf"JambaForCausalLM {MIXES}", id="Jamba, a hybrid"),
        pytest.param(
            of("falcon_h1"), rf"FalconH1ForCausalLM {MIXES} \(hybrid\)", id="both in one layer"
        ),
        pytest.param(
            RecurrentGemmaConfig(num_hidden_layers=3, hidden_size=32, num_attention_heads=2),
            rf"RecurrentGemmaForCausalLM {MIXES}",
            id="RecurrentGemma",
        ),
        pytest.param(
            RwkvConfig(hidden_size=32, num_hidden_layers=2),
            "RwkvForCausalLM has no decoder with layers",
            id="RWKV",
        ),
        pytest.param(
            of("lfm2", layer_types=["conv", "full_attention"] * 2),
            rf"Lfm2ForCausalLM {MIXES} \(conv\)",
            id="short convolutions",
        ),
        pytest.param(
            of("minimax"),
            rf"MiniMaxForCausalLM {MIXES} \(linear_attention\)",
            id="linear attention",
        ),
        pytest.param(
            GPT2Config(n_layer=1), "GPT2LMHeadModel has no decoder with layers", id="GPT-2"
        ),
        pytest.param(BloomConfig(n_layer=1), "BloomForCausalLM has no decoder", id="Bloom"),
        pytest.param(
            FalconConfig(num_hidden_layers=1),
            "a falcon model cannot be made with packed attention",
            id="attention of its own",
        ),
        pytest.param(
            of("stablelm"), "StableLmAttention does not hand cu_seq_lens_q on", id="no boundaries"
        ),
        pytest.param(of("gpt_oss"), "GptOssAttention uses s_aux", id="sinks"),
    ],
)
def test_what_cannot_be_packed_is_refused_by_name(config, message):
    with pytest.raises(ValueError, match=message):
        check_trainable(config)


def test_a_layer_that_calls_no_attention_is_named(monkeypatch):
    """Whatever it is called: what counts is what it does."""
    forward = LlamaDecoderLayer.forward

    def mixed(self, hidden_states, **more):
        if self.self_attn.layer_idx == 2:
            return hidden_states.cumsum(1)
        return forward(self, hidden_states, **more)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", mixed)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM does not call .* in layer 2"):
        check_trainable(LlamaConfig(**SIZES))


def test_a_convolution_beside_the_attention_is_seen(monkeypatch):
    init = LlamaDecoderLayer.__init__

    def with_convolution(self, config, layer_idx):
        init(self, config, layer_idx)
        self.short = nn.Conv1d(64, 64, 4)

    monkeypatch.setattr(LlamaDecoderLayer, "__init__", with_convolution)
    with pytest.raises(ValueError, match=rf"LlamaForCausalLM {MIXES} \(convolutions\)"):
        check_trainable(LlamaConfig(**SIZES))


def test_two_threads_look_at_a_model_each():
    """As the runs of a sweep do: each sees the calls of its own."""
    calls = attention.register_probe()
    with ThreadPoolExecutor(1) as other:
        others = other.submit(attention.register_probe).result()
        with torch.device("meta"):
            lm = AutoModelForCausalLM.from_config(
                LlamaConfig(**SIZES), attn_implementation=attention.PROBE
            )
        attention.check_packing(lm, calls)
        assert len(calls) == 4
        assert not others
