"""What a dry run refuses, and what it takes the model's sizes from."""

import dataclasses
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from transformers import Qwen3Config, Qwen3MoeConfig

from isentropic.config import RolloutConfig
from isentropic.experiments.dry.describe import describe
from isentropic.experiments.dry.lines import evaluation_lines
from isentropic.experiments.dry.work import find_work
from isentropic.experiments.run.prepare import check_engine_runs, check_learner_runs
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.load import load

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


@pytest.mark.parametrize(
    ("devices", "sizes", "message"),
    [
        pytest.param(2, {"num_key_value_heads": 1}, None, id="a head of keys for both"),
        pytest.param(4, {"num_key_value_heads": 2}, None, id="each of two heads for two"),
        pytest.param(
            4, {"num_key_value_heads": 6}, "6 heads of keys", id="12 heads for 4, 6 of keys"
        ),
        pytest.param(6, {"num_key_value_heads": 4}, "4 heads of keys", id="4 heads of keys for 6"),
        pytest.param(
            4, {"intermediate_size": 4 * 27 + 2}, "intermediate_size of the model is 110", id="MLP"
        ),
    ],
)
def test_keys_and_mlps_are_cut_evenly_over_an_engines_devices(devices, sizes, message):
    rollout = dataclasses.replace(ROLLOUT, tensor_parallel=devices)
    config = SimpleNamespace(rollout=rollout, cluster=SimpleNamespace(engine_device="cuda"))
    same = {"num_attention_heads": 12, "num_key_value_heads": 12, "intermediate_size": 96}
    model = Qwen3Config(**(same | sizes), hidden_size=96, head_dim=16)
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        check_engine_runs(config, model)


@pytest.mark.parametrize(("ranks", "refused"), [(1, False), (4, False), (3, True)])
def test_heads_are_dealt_out_evenly_to_ranks_that_share_tokens(ranks, refused):
    config = SimpleNamespace(
        learner=SimpleNamespace(context_parallel=ranks, lora=None),
        model=SimpleNamespace(trust_remote_code=False),
    )
    if refused:
        with pytest.raises(ValueError, match=rf"context_parallel={ranks}: the model's 4 attention"):
            check_learner_runs(config, MODEL)
    else:
        check_learner_runs(config, MODEL)


@pytest.mark.parametrize(("width", "refused"), [(48, True), (64, False)])
def test_experts_that_the_cpu_s_kernel_pads_are_refused(width, refused):
    cluster = SimpleNamespace(engine_device="cpu")
    names = {"model": SimpleNamespace(name="some"), "cluster": cluster, "rollout": ROLLOUT}
    model = Qwen3MoeConfig(moe_intermediate_size=width, num_attention_heads=4, head_dim=32)
    with pytest.raises(ValueError, match=r"48 wide.*multiples of 32") if refused else nullcontext():
        check_engine_runs(SimpleNamespace(**names), model)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        # 60 steps of 4 x 2 are 480 answers.
        pytest.param([], "evaluation 10 answers, 4 times: 8% of all", id="40 of 520"),
        pytest.param(["evaluation.every=5"], "10 answers, 13 times: 21% of all", id="130 of 610"),
        pytest.param(
            ["evaluation.every=7", "evaluation.samples=20"],
            "40 answers, 10 times: 45% of all",
            id="the last counts",
        ),
        pytest.param(
            ["evaluation.every=7", "evaluation.samples=20", "sampling=refilled",
             "sampling.draw_prompts=40", "sampling.max_draws=1"],
            "10 times: 8%",
            id="drawn and cut",
        ),
        pytest.param(["evaluation.every=0"], "evaluation none", id="never"),
    ],
)  # fmt: skip
def test_the_share_of_evaluation(settings, overrides, line):
    sizes = ["rollout.prompts_per_step=4", "rollout.group_size=2", "run.steps=60",
             "learner.updates_per_rollout=1",
             "evaluation.every=20", "evaluation.prompts=8", "evaluation.samples=5"]  # fmt: skip
    config = settings(*sizes, *overrides)
    text = "\n".join(evaluation_lines(config, find_work(config, held_out=2)))
    assert line in text
    assert ("MORE THAN 25%" in text) == ("45%" in line)


def test_the_verdict_says_what_nobody_looked_at(settings, tmp_path):
    """A mistyped path looks like one of another machine."""
    away = ["model.path=/shared/no-such-model", "task.path=/shared/no-such-data.jsonl"]
    places = [f"run.dir={tmp_path}", "run.dry=true"]
    text, problems = describe(settings("experiment=ce_gppo_1p5b", *away, *places))

    lines = text.splitlines()
    assert problems == []
    assert lines[0].startswith("model      r1-distill-qwen-1.5b (/shared/no-such-model): 1,777")
    assert lines[-1].startswith("verdict    fits (model and data not seen), assumed: 1 x 8 GPUs")


OWN = """
import random
from isentropic.records import Prompt

class Mine:
    def __init__(self, path=None):
        if path: open(path)

    def size(self, split):
        return 4

    def prompt(self, split, index):
        message = {"role": "user", "content": str(random.random())}
        return Prompt(prompt_id=f"{split}/{index}", messages=(message,), answer="1")

    def grade(self, prompt, turns):
        return 1.0
"""


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (", path: /nowhere", r"mine\.py:7: Mine\(\*\*task\.settings\) fails: FileNotFoundError"),
        ("", r"Mine\.prompt\('train', 0\) differs from call to call"),
    ],
)
def test_a_task_of_ones_own_that_fails_comes_before_any_plan(tmp_path, more, says):
    (tmp_path / "mine.py").write_text(OWN)
    task = f"task={{file: {tmp_path}/mine.py, class: Mine{more}}}"
    config = load(compose(["cluster.address=auto", task]))
    with pytest.raises(ValueError, match=says):
        describe(config)
