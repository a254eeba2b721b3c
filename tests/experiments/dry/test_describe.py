"""What a dry run refuses, and what it takes the model's sizes from."""

import dataclasses
from types import SimpleNamespace

import pytest
from transformers import Qwen3Config

from isentropic.config import RolloutConfig
from isentropic.experiments.run.prepare import check_engine_runs

MODEL = Qwen3Config(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    tie_word_embeddings=True,
)
ROLLOUT = RolloutConfig(
    engine="vllm",
    num_actors=1,
    tensor_parallel=1,
    prompts_per_step=4,
    group_size=2,
    temperature=1.0,
    top_p=1.0,
    top_k=-1,
    max_prompt_tokens=8,
    max_response_tokens=8,
    max_staleness=0,
    max_num_seqs=8,
    kv_cache_gib=1.0,
    dtype="bfloat16",
    probe_tolerance=0.1,
    timeout_s=1.0,
)


@pytest.mark.parametrize(("devices", "refused"), [(1, False), (2, False), (3, True), (8, True)])
def test_heads_are_spread_evenly_over_an_engines_devices(devices, refused):
    rollout = dataclasses.replace(ROLLOUT, tensor_parallel=devices)
    config = SimpleNamespace(rollout=rollout, cluster=SimpleNamespace(engine_device="cuda"))
    if refused:
        with pytest.raises(
            ValueError, match=rf"tensor_parallel={devices}: the model's 4 attention"
        ):
            check_engine_runs(config, MODEL)
    else:
        check_engine_runs(config, MODEL)
