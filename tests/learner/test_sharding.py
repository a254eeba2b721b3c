"""A model that is read by slices is, to the bit, the one that is loaded whole and then sharded."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.functional import scaled_dot_product_attention
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from isentropic.config import LearnerConfig, ModelConfig
from isentropic.learner import sharding
from isentropic.learner.model import PackedModel, load_model
from isentropic.models.tiny_vision import write_vision_model

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
    "pad_token_id": 0,
}
LEARNER = LearnerConfig(
    num_ranks=1,
    updates_per_rollout=1,
    microbatch_tokens=100,
    dtype="float32",
    lr=1e-3,
    lr_schedule="constant",
    warmup_updates=0,
    weight_decay=0.0,
    adam_beta1=0.9,
    adam_beta2=0.999,
    adam_eps=1e-8,
    max_grad_norm=1.0,
    max_skipped_updates=3,
    gradient_checkpointing=False,
    compile=False,
    vocab_chunk=64,
    unsharded_gradient_gib=4.0,
    balance="tokens",
    head="auto",
    timeout_s=60.0,
    collective_timeout_s=60.0,
    replicas=1,
    context_parallel=1,
)


@pytest.fixture
def ranks():
    """Makes this process one of many ranks; nothing is sent, and sharding sends nothing."""

    def join(rank, world):
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
        return init_device_mesh("cpu", (world,), mesh_dim_names=("ranks",))

    yield join
    if dist.is_initialized():
        dist.destroy_process_group()


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


def tied(folder):
    lm = Qwen3ForCausalLM(Qwen3Config(head_dim=6, tie_word_embeddings=True, **SIZES))
    lm.generation_config.max_new_tokens = 7  # config.json has no such setting
    lm.save_pretrained(folder)


def half_precision_in_many_files(folder):
    """A head of its own, rotary frequencies of Llama 3, weights in bfloat16."""
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "rope_theta": 1e4}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    config = LlamaConfig(rope_parameters=rope, tie_word_embeddings=False, **SIZES)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="4KB")
    assert len(list(Path(folder).glob("*.safetensors"))) > 3


def old_names(folder):
    """Embeddings before `model.` was put in front of the names, as GPT-like uploads have them."""
    tied(folder)
    path = f"{folder}/model.safetensors"
    weights = {name.removeprefix("model."): each for name, each in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def vision(folder):
    write_vision_model(Path(folder))


def contents(packed):
    """Every tensor of this rank, as it lies in memory."""
    named = [*packed.named_parameters(remove_duplicate=False), *packed.named_buffers()]
    return {
        name: tensor.to_local() if isinstance(tensor, DTensor) else tensor for name, tensor in named
    }


@pytest.mark.parametrize("write", [tied, half_precision_in_many_files, old_names, vision])
@pytest.mark.parametrize(
    ("rank", "world"),
    [
        pytest.param(0, 1, id="one rank"),
        pytest.param(1, 2, id="second of two"),
        pytest.param(6, 7, id="last of seven: some shards are smaller, or empty"),
    ],
)
def test_slices_are_the_whole(ranks, model, write, rank, world, caplog):
    torch.manual_seed(1)
    write(model.path)
    mesh = ranks(rank, world)
    whole = PackedModel(load_model(model), temperature=1.0, vocab_chunk=64)
    sharding.shard(whole, mesh, dtype=torch.float32, compile_layers=False)
    before = torch.get_rng_state()

    found, keep = sharding.build(model, LEARNER, mesh, temperature=1.0, trained=True)

    assert not caplog.records, "the model was loaded whole"
    assert keep
    expected, got = contents(whole), contents(found)
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype, name
        assert torch.equal(got[name], tensor), name
    assert all(parameter.requires_grad for parameter in found.parameters())
    assert found.lm.config.to_dict() == whole.lm.config.to_dict()
    assert found.lm.generation_config.to_dict() == whole.lm.generation_config.to_dict()
    assert torch.equal(torch.get_rng_state(), before), "random state is part of a checkpoint"


@pytest.mark.parametrize(
    ("bound", "units"),
    [
        pytest.param(sharding.ONE_UNIT_BYTES, 1, id="small: one gather, one reduction"),
        pytest.param(0, 1 + 2, id="the layers, and the rest"),
    ],
)
def test_what_is_gathered_at_once(ranks, model, bound, units, monkeypatch):
    monkeypatch.setattr(sharding, "ONE_UNIT_BYTES", bound)
    tied(model.path)
    packed = PackedModel(load_model(model), temperature=1.0, vocab_chunk=64)
    sharding.shard(packed, ranks(0, 2), dtype=torch.float32, compile_layers=False)
    assert len(sharding.fsdp_modules(packed)) == units


def fused(folder):
    """transformers stacks the experts' weights as it loads."""
    sizes = SIZES | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
    Qwen3MoeForCausalLM(Qwen3MoeConfig(head_dim=6, **sizes)).save_pretrained(folder)


def both_names(folder):
    """The files say that the output layer is another matrix, config.json that it is the same."""
    tied(folder)
    path = f"{folder}/model.safetensors"
    weights = load_file(path)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("write", [fused, both_names])
def test_what_slices_cannot_read_is_loaded_whole(ranks, model, write, caplog):
    write(model.path)
    mesh = ranks(0, 1)
    whole = PackedModel(load_model(model), temperature=1.0, vocab_chunk=64)
    sharding.shard(whole, mesh, dtype=torch.float32, compile_layers=False)

    with caplog.at_level(logging.WARNING, logger="isentropic"):
        found, _ = sharding.build(model, LEARNER, mesh, temperature=1.0, trained=True)

    assert "every learner rank loads all of them on its host first" in caplog.text
    for name, tensor in contents(whole).items():
        assert torch.equal(contents(found)[name], tensor), name


def unsharded_bytes(packed):
    """Bytes of gradients that this rank keeps unsharded between two microbatches."""
    sums = [
        parameter.unsharded_accumulated_grad
        for module in sharding.fsdp_modules(packed)
        for group in module._get_fsdp_state()._fsdp_param_groups
        for parameter in group.fsdp_params
    ]
    return sum(each.nbytes for each in sums if each is not None)


def one_sequence(module, query, key, value, mask, scaling=None, **kwargs):
    """Attention without a look at the boundaries, which have no values here."""
    out = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2), None


@pytest.mark.parametrize(
    ("budget_gib", "kept"),
    [
        pytest.param(7.0, 1, id="they fit: every rank keeps all gradients in float32"),
        pytest.param(4.0, 0, id="they do not: only shards are summed"),
    ],
)
def test_unsharded_gradients_stay_below_their_budget(ranks, budget_gib, kept):
    """Two layers of a 7 B model on eight ranks, without memory: 1.56 G parameters, 5.8 GiB."""
    mesh = ranks(0, 8)
    AttentionInterface.register("one_sequence", one_sequence)
    AttentionMaskInterface.register("one_sequence", lambda *args, **kwargs: None)
    sizes = {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 28, "num_key_value_heads": 4}
    with FakeTensorMode():
        lm = AutoModelForCausalLM.from_config(
            Qwen2Config(tie_word_embeddings=False, **sizes),
            dtype=torch.float32,
            attn_implementation="one_sequence",
        )
        packed = PackedModel(lm, temperature=1.0, vocab_chunk=152064)
        keep = sharding.shard(packed, mesh, dtype=torch.bfloat16, compile_layers=False)
        count = sum(parameter.numel() for parameter in packed.parameters())
        config = replace(LEARNER, unsharded_gradient_gib=budget_gib)
        sharding.begin_microbatch(
            packed,
            last=False,
            reduce=not sharding.may_stand_unsharded(count, config),
            keep_gathered=keep,
        )
        tokens = torch.zeros(8, dtype=torch.int64)
        packed(
            tokens,
            torch.arange(8),
            torch.tensor([0, 8], dtype=torch.int32),
            torch.arange(7),
            tokens[1:],
            max_length=8,
        ).logprob.sum().backward()

        assert count > 1.5e9
        assert unsharded_bytes(packed) == kept * 4 * count
        shards = [parameter.grad for parameter in packed.parameters()]
        assert all((each is None) == bool(kept) for each in shards)


MEMORY = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
sys.path.insert(0, sys.argv[1])
import test_sharding as shared
from isentropic.config import ModelConfig
from isentropic.learner import sharding

def mib(name):
    text = Path("/proc/self/status").read_text()
    return int(text.split(name + ":")[1].split()[0]) / 1024

model = ModelConfig(name="big", path=sys.argv[2], revision=None, max_length=16,
    trust_remote_code=False, warm_start=None, image_pixels=None)
dist.init_process_group("fake", rank=1, world_size=4, store=FakeStore())
mesh = init_device_mesh("cpu", (4,), mesh_dim_names=("ranks",))
sharding.empty_model(model)
before = mib("VmRSS")
sharding.build(model, shared.LEARNER, mesh, temperature=1.0, trained=True)
print(mib("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rank_never_holds_more_than_its_shard(model, dtype):
    """The peak of a rank of four: shard + largest tensor + slack, pages of files included."""
    sizes = SIZES | {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 4096}
    sizes |= {"num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 8}
    lm = Qwen3ForCausalLM(Qwen3Config(head_dim=64, tie_word_embeddings=True, **sizes)).to(dtype)
    total = sum(parameter.numel() for parameter in lm.parameters()) * 4 / 2**20
    largest = max(parameter.numel() for parameter in lm.parameters()) * 4 / 2**20
    lm.save_pretrained(model.path)
    del lm
    found = subprocess.run(
        [sys.executable, "-c", MEMORY, str(Path(__file__).parent), model.path],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "platform")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    peak = float(found.stdout.split()[-1])
    print(f"{total:.0f} MiB in all, a shard of {total / 4:.0f}, largest {largest:.0f}: {peak:.0f}")
    assert peak < total / 4 + largest + 32


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_gpu_adds_in_a_fixed_order_only_if_asked(monkeypatch, deterministic):
    """Merely warning would leave attention's backward pass as it is."""
    asked = []
    environment = {}
    monkeypatch.setattr(sharding.os, "environ", environment)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.setattr(
        torch, "use_deterministic_algorithms", lambda mode, **options: asked.append((mode, options))
    )
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(sharding, "_mesh", lambda *arguments: "mesh")

    joined = sharding.join(
        rank=0, world_size=1, init_method=None, timeout_s=1.0, deterministic=deterministic
    )

    assert joined == "mesh"
    assert asked == ([(True, {})] if deterministic else [])
    assert ("CUBLAS_WORKSPACE_CONFIG" in environment) == deterministic
