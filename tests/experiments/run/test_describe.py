"""The dry run's estimates, by hand."""

import dataclasses
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from transformers import Qwen3Config, Qwen3MoeConfig

from isentropic.config import RolloutConfig
from isentropic.experiments.run import describe as described
from isentropic.experiments.run import prepare

GIB = 2**30
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


@dataclasses.dataclass
class Run:
    rollout: RolloutConfig


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
def test_cache_tokens(dtype, tensor_parallel, bytes_per_token):
    rollout = dataclasses.replace(ROLLOUT, dtype=dtype, tensor_parallel=tensor_parallel)

    assert described.cache_tokens(MODEL, Run(rollout)) == GIB // bytes_per_token


def test_engine_bytes():
    attention = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 2 * 16  # q, k and v, output, norms of q and k
    layer = attention + 3 * 64 * 128 + 2 * 64  # and the MLP's three matrices, and two norms
    parameters = 128 * 64 + 2 * layer + 64  # embedding (tied), layers, last norm

    assert described.engine_bytes(MODEL, Run(ROLLOUT)) == 2 * parameters + GIB
    halved = dataclasses.replace(ROLLOUT, tensor_parallel=2)
    assert described.engine_bytes(MODEL, Run(halved)) == parameters + GIB


def test_a_shared_gpu_needs_room_for_the_larger_side_and_what_the_other_leaves():
    assert described.bytes_per_gpu(70 * GIB, 40 * GIB, shared=True) == 73 * GIB
    assert described.bytes_per_gpu(30 * GIB, 40 * GIB, shared=True) == 47 * GIB  # 44 of vLLM
    assert described.bytes_per_gpu(30 * GIB, 40 * GIB, shared=False) == 40 * GIB


@pytest.mark.parametrize(("devices", "refused"), [(1, False), (2, False), (3, True), (8, True)])
def test_heads_are_spread_evenly_over_an_engines_devices(devices, refused):
    rollout = dataclasses.replace(ROLLOUT, tensor_parallel=devices)
    config = SimpleNamespace(rollout=rollout, cluster=SimpleNamespace(engine_device="cuda"))
    if refused:
        with pytest.raises(
            ValueError, match=rf"tensor_parallel={devices}: the model's 4 attention"
        ):
            prepare.check_engine_runs(config, MODEL)
    else:
        prepare.check_engine_runs(config, MODEL)


@pytest.mark.parametrize(
    ("changes", "sampling", "line"),
    [
        # 60 steps of 4 x 2 are 480 answers.
        pytest.param({}, {}, "evaluation 2 prompts x 5 samples, 4 times: 8% of all", id="40 of 520"),
        pytest.param({"every": 5}, {}, "2 prompts x 5 samples, 13 times: 21% of all", id="130 of 610"),
        pytest.param({"every": 7, "samples": 20}, {}, "10 times: 45% of all", id="the last counts"),
        pytest.param({"every": 7, "samples": 20}, {"draw_prompts": 40}, "10 times: 8%", id="drawn and cut"),
        pytest.param({"every": 0}, {}, "evaluation none", id="never"),
    ],
)  # fmt: skip
def test_the_share_of_evaluation(changes, sampling, line):
    evaluation = {"every": 20, "prompts": 8, "samples": 5} | changes
    config = SimpleNamespace(
        evaluation=SimpleNamespace(**evaluation),
        sampling=SimpleNamespace(**sampling),
        rollout=ROLLOUT,
        run=SimpleNamespace(steps=60),
    )
    text = described.evaluation_line(config, held_out=2)
    assert line in text
    assert ("MORE THAN 25%" in text) == ("45%" in line)


@pytest.mark.parametrize(("ranks", "refused"), [(1, False), (4, False), (3, True)])
def test_heads_are_dealt_out_evenly_to_ranks_that_share_tokens(ranks, refused):
    config = SimpleNamespace(
        rollout=ROLLOUT,
        cluster=SimpleNamespace(engine_device="cuda"),
        learner=SimpleNamespace(context_parallel=ranks, lora=None),
        model=SimpleNamespace(trust_remote_code=False),
    )
    if refused:
        with pytest.raises(ValueError, match=rf"context_parallel={ranks}: the model's 4 attention"):
            prepare.check_model_runs(config, MODEL)
    else:
        prepare.check_model_runs(config, MODEL)


@pytest.mark.parametrize(("width", "refused"), [(48, True), (64, False)])
def test_experts_that_the_cpu_s_kernel_pads_are_refused(width, refused):
    cluster = SimpleNamespace(engine_device="cpu")
    names = {"model": SimpleNamespace(name="some"), "cluster": cluster, "rollout": ROLLOUT}
    model = Qwen3MoeConfig(moe_intermediate_size=width, num_attention_heads=4, head_dim=32)
    with pytest.raises(ValueError, match=r"48 wide.*multiples of 32") if refused else nullcontext():
        prepare.check_engine_runs(SimpleNamespace(**names), model)
