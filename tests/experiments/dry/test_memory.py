"""Bytes of engines, GPUs and nodes, by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from transformers import Qwen3ForCausalLM, Qwen3MoeForCausalLM

from isentropic.experiments.dry.machines import Load
from isentropic.experiments.dry.memory import (
    ALONE_OVERHEAD,
    CUDA_HOST,
    ENGINE_OVERHEAD,
    RANK_OVERHEAD,
    SHARED_OVERHEAD,
    Needs,
    cache_tokens,
    find_needs,
    gpu_bytes,
    host_parts,
    loaded_whole,
    object_store,
)
from isentropic.experiments.dry.work import find_work

GIB = 2**30


@pytest.mark.parametrize(
    ("dtype", "tensor_parallel", "bytes_per_token"),
    [
        pytest.param(
            "bfloat16", 1, 2 * 2 * 2 * 16 * 2, id="key and value, 2 layers, 2 heads of 16, 2 bytes"
        ),
        pytest.param("float32", 1, 2 * 2 * 2 * 16 * 4, id="4 bytes"),
        pytest.param("bfloat16", 2, 2 * 2 * 1 * 16 * 2, id="a head on each of two devices"),
        pytest.param(
            "bfloat16",
            4,
            2 * 2 * 1 * 16 * 2,
            id="heads are copied where there are fewer than devices",
        ),
    ],
)
def test_cache_tokens(small, rollout, dtype, tensor_parallel, bytes_per_token):
    run = rollout(dtype=dtype, tensor_parallel=tensor_parallel)

    assert cache_tokens(small, run) == GIB // bytes_per_token


def test_weights_of_an_engine(small, settings):
    attention = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 2 * 16  # q, k and v, output, norms of q and k
    layer = attention + 3 * 64 * 128 + 2 * 64  # and the MLP's three matrices, and two norms
    parameters = 128 * 64 + 2 * layer + 64  # embedding (tied), layers, last norm
    config = settings(
        "rollout.dtype=bfloat16", "rollout.tensor_parallel=2", "rollout.kv_cache_gib=1"
    )

    needs = find_needs(config, small, find_work(config, held_out=0))

    assert needs.engine == parameters + GIB
    assert needs.published == 2 * parameters
    assert object_store(config, needs) == 4 * parameters
    assert needs.largest == 4 * 128 * 64


def needs_of(rank, engine):
    """A rank whose peak and an engine whose weights and cache are given, in GiB."""
    state = SimpleNamespace(
        total=rank * GIB,
        state=5 * GIB,
        weights=GIB,
        optimizer=2 * GIB,
        books_on_host=6 * GIB,
    )
    return Needs(
        rank=state,
        engine_weights=0,
        engine_cache=engine * GIB,
        cache_tokens=None,
        published=3 * GIB,
        largest=GIB // 2,
        batch=7 * GIB,
    )


def run(placement, gpus=1.0, transport="objects"):
    return SimpleNamespace(
        cluster=SimpleNamespace(placement=placement, gpus_per_rank=gpus),
        rollout=SimpleNamespace(tensor_parallel=1, dtype="bfloat16"),
        learner=SimpleNamespace(num_ranks=4, replicas=2),
        weights=SimpleNamespace(transport=transport),
    )


def test_a_shared_gpu_needs_room_for_the_larger_side_and_what_the_other_leaves():
    both = "rank and engine"
    assert gpu_bytes(run("shared"), needs_of(70, 40)) == {both: 70 * GIB + SHARED_OVERHEAD}
    assert gpu_bytes(run("shared"), needs_of(30, 40)) == {both: 44 * GIB + SHARED_OVERHEAD}


def test_lent_weights_are_on_the_gpu_and_not_in_the_object_store():
    """Of a largest tensor of 512 MiB in float32, 256 in bfloat16, 256 of a shard on two ranks."""
    lending = run("shared", transport="broadcast")
    engine = 44 * GIB + (2 * 256 + 256 + 256) * 2**20
    needs = needs_of(30, 40)

    assert gpu_bytes(lending, needs) == {"rank and engine": engine + SHARED_OVERHEAD}
    assert "object store" not in host_parts(lending, needs, Load(engines=1, ranks=2), is_head=True)
    assert "weights to broadcast" not in host_parts(lending, needs, Load(2, 2), is_head=True)


def test_weights_to_broadcast_are_in_the_memory_of_the_ranks_node():
    """Two versions of 3 GiB; the object store holds none, and a node of engines has neither."""
    apart = run("apart", transport="broadcast")
    needs = needs_of(30, 40)

    assert gpu_bytes(apart, needs)["engine"] == 44 * GIB + ALONE_OVERHEAD
    assert object_store(apart, needs) == 0
    ranks, engines = (
        host_parts(apart, needs, load, is_head=False)
        for load in (Load(engines=0, ranks=2), Load(engines=2, ranks=0))
    )
    assert ranks["weights to broadcast"] == 6 * GIB
    assert not {"weights to broadcast", "object store"} & engines.keys()


def test_apart_each_has_its_own():
    assert gpu_bytes(run("apart"), needs_of(30, 40)) == {
        "rank": 30 * GIB + ALONE_OVERHEAD,
        "engine": 44 * GIB + ALONE_OVERHEAD,
    }


def test_memory_of_a_node():
    """Two ranks and an engine that share GPUs: what is away comes on top of a copy to write."""
    parts = host_parts(run("shared"), needs_of(30, 40), Load(engines=1, ranks=2), is_head=True)

    assert parts == {
        "ranks": 2 * (RANK_OVERHEAD + CUDA_HOST),
        "checkpoint copies": 2 * 3 * GIB,
        "entropy ledger": 2 * 6 * GIB,
        "engines": ENGINE_OVERHEAD + CUDA_HOST,
        "object store": 6 * GIB,
        "ranks that are away": 2 * 5 * GIB,
        "loading": GIB,
        "step's batch": 7 * GIB,
    }


def test_a_model_that_each_rank_loads_whole():
    """It is there before the copies that a node of GPUs holds later: what it is larger by counts."""
    needs = replace(needs_of(30, 40), whole=50 * GIB)  # of a rank; 3 and 6 to copy later
    parts = host_parts(run("apart"), needs, Load(engines=0, ranks=2), is_head=False)
    assert parts["loading"] == 2 * (50 - 3 - 6) * GIB
    parts = host_parts(run("apart", gpus=0), needs, Load(engines=0, ranks=2), is_head=False)
    assert parts["ranks"] == 2 * (RANK_OVERHEAD + (50 + 1) * GIB)


@pytest.mark.parametrize(
    ("write", "whole"),
    [
        pytest.param(Qwen3ForCausalLM, False, id="read by slices"),
        pytest.param(Qwen3MoeForCausalLM, True, id="experts of files are put together"),
    ],
)
def test_what_is_loaded_whole(small, tmp_path, write, whole):
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    kind = write.config_class
    network = kind(**(small.to_dict() | experts | {"model_type": kind.model_type}))
    model = SimpleNamespace(
        name="some", path=str(tmp_path), revision=None, max_length=16, trust_remote_code=False
    )
    dense = write is Qwen3ForCausalLM
    absent = SimpleNamespace(path=str(tmp_path / "elsewhere"))
    assert loaded_whole(absent, small if dense else network) is whole
    write(network).save_pretrained(tmp_path)
    assert loaded_whole(model, network) is whole


def test_on_cpus_all_of_it_is_the_node_s_memory():
    parts = host_parts(run("apart", gpus=0), needs_of(30, 40), Load(1, 2), is_head=False)

    assert parts["ranks"] == 2 * (RANK_OVERHEAD + 30 * GIB)
    assert parts["engines"] == ENGINE_OVERHEAD + 40 * GIB


@pytest.mark.parametrize(("every", "copies"), [(0, 0), (25, 6)])
def test_the_entropy_ledger_is_planned_for_where_it_measures(small, settings, every, copies):
    config = settings(f"accounting.ledger.every={every}", "learner.num_ranks=1")
    rank = find_needs(config, small, find_work(config, held_out=0)).rank

    assert rank.books_on_host == copies * rank.gradients
    assert bool(rank.books) == bool(rank.scoring) == bool(every)
