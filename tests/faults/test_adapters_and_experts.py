"""Adapters, and a mixture of experts, through whole runs: killed in the middle, they end with the same bits."""

import pytest
import torch
from training_job import Job, assert_same_run, lines
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from isentropic.models import tiny

pytestmark = [pytest.mark.engine, pytest.mark.slow]

EXPERTS = 8
CHOSEN = 2
ADAPTERS = ["learner=lora", "learner.lora.rank=4", "learner.lora.alpha=8", "learner.lr=1e-2"]


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """A random Qwen3-MoE that reads single characters."""
    torch.manual_seed(0)
    tokenizer = tiny.build_tokenizer()
    config = Qwen3MoeConfig(
        vocab_size=128,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        num_experts=EXPERTS,
        num_experts_per_tok=CHOSEN,
        norm_topk_prob=True,
        moe_intermediate_size=32,
        max_position_embeddings=256,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    folder = tmp_path_factory.mktemp("experts")
    model = Qwen3MoeForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    tiny.save(folder, model, tokenizer)
    return str(folder)


def undisturbed_and_killed(folder, model, *overrides):
    """The lines of a run, after another was killed while it wrote its last-but-one checkpoint and went on."""
    whole = Job(folder / "whole", model, *overrides)
    assert whole.wait() == 0, whole.text()[-3000:]
    killed = Job(folder / "killed", model, *overrides)
    killed.until(lambda: killed.has("checkpoints/.tmp-step_000004*"), every_s=0.001)
    killed.kill()
    assert killed.has("checkpoints/step_000002") and not killed.has("checkpoints/step_000004")
    killed = Job(folder / "killed", model, "resume=auto", *overrides)
    assert killed.wait() == 0, killed.text()[-3000:]
    assert_same_run(killed.folder, whole.folder)
    return lines(whole.folder)


def test_adapters(tmp_path, tiny_model_path):
    metrics = undisturbed_and_killed(tmp_path, tiny_model_path, *ADAPTERS)

    assert max(line["sync/probe_logprob_abs_max"] for line in metrics[1:]) < 1e-4
    assert metrics[-1]["kl/k3"] > 1e-4, "else nothing was learned that an engine could miss"


def test_experts(tmp_path, experts):
    """The engine's kernel has the experts in a layout of its own: new ones are brought into it."""
    metrics = undisturbed_and_killed(tmp_path, experts)

    assert max(line["sync/probe_logprob_abs_max"] for line in metrics[1:]) < 1e-4
    assert metrics[-1]["kl/k3"] > 1e-4
    for line in metrics[1:]:
        assert 0 < line["router/entropy"] < torch.tensor(EXPERTS).log()
        assert 1 <= line["router/load_max"] <= EXPERTS / CHOSEN
