"""Benchmark scripts with tiny sizes: each of them runs, and its arithmetic is right.

Where a script would start a job, its command is read as the job reads it, and nothing is started.
"""

import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ray._private.services import GCS_SERVER_EXECUTABLE, RAYLET_EXECUTABLE
from transformers import AutoModelForCausalLM

from isentropic.actors.learner_actor import LearnerActor
from isentropic.actors.rollout_actor import RolloutActor
from isentropic.config import ModelConfig
from isentropic.experiments.attribution.attribute import STEPS, UPDATES
from isentropic.experiments.commands import attribute as attribute_command
from isentropic.experiments.commands import sweep as sweep_command
from isentropic.experiments.run.prepare import Prepared
from isentropic.experiments.settings.compose import compose_run
from isentropic.experiments.settings.load import load
from isentropic.experiments.sweep.plan import compose_trials, plan_of
from isentropic.learner.learner import Learner
from isentropic.models import tiny
from isentropic.models.pretrained import load_chat
from isentropic.objectives.tokens import statistics
from isentropic.tasks import TASKS
from isentropic.tasks.grading import server

SIZES = tiny.TinySizes(
    hidden_size=16, intermediate_size=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8,
    window=64,
)  # fmt: skip
OPTIONS = Namespace(
    sequences=4, response=6, budget=64, dtype="float32", vocab_chunk=8192, compile=False
)


@pytest.fixture
def script(benchmark_script):
    return benchmark_script


@pytest.fixture
def printed(script, monkeypatch, capsys):
    """printed(name, *arguments): what the benchmark prints with this command line."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        script(name).main()
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random model of width 16 with the embedded tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)  # 0 would make the weights that probe.py calls stale
    tokenizer = tiny.build_tokenizer()
    tiny.save(folder, tiny.build_model(SIZES, tokenizer), tokenizer)
    return ModelConfig(
        name="random", path=str(folder), revision=None, max_length=64, trust_remote_code=False,
        warm_start=None, image_pixels=None,
    )  # fmt: skip


def config_of(overrides):
    return load(compose_run(overrides))


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def replace_run(monkeypatch, module, job):
    """Has a benchmark call `job(file, arguments, env)` where it would start a process."""

    def run(command, env=None, **_):
        job(Path(command[1]).name, command[2:], env)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=run))


# learner.py


def test_learner_compares_both_loops(printed, model):
    sizes = ["--sequences", 4, "--response", 6, "--rounds", 1]
    text = printed("learner", "--model", model.path, *sizes)

    assert "in 1 microbatches" in text
    assert "ratio learner / bare:" in text


def test_the_bare_loop_has_the_learners_gradient(script, model):
    learner = script("learner")
    batch = learner.make_batch(OPTIONS, 128)
    rank = Learner(
        config=learner.learner_config(OPTIONS), model=model, objective=learner.OBJECTIVE,
        temperature=1.0, total_updates=1,
    )  # fmt: skip
    (update,) = rank.update(batch).updates
    rank.close()

    bare = learner.BareLoop(model, torch.float32, "cpu")
    assert bare.update(batch.updates[0]) == pytest.approx(update.grad_norm, rel=1e-4)


# accounting.py


def test_accounting_times_each_part(printed):
    sizes = {"prompts": 4, "group": 4, "tokens": 6, "updates": 2, "hidden": 16, "steps": 1}
    text = printed("accounting", *(f"--{name}={value}" for name, value in sizes.items()))

    parts = ["old-policy pass", "updates", "accounting", "panel", "entropy and step", "recheck"]
    rows = [line[2:20].strip() for line in text.splitlines() if line.endswith("learner's time")]
    assert rows == parts


# polarity.py


def test_polarity_prints_the_ratio(script, printed, monkeypatch):
    for name in ("choose_head", "_whole"):  # the script exchanges them; they come back
        monkeypatch.setattr(statistics, name, getattr(statistics, name))
    sizes = {"vocabulary": 64, "hidden": 16, "layers": 1, "sequences": 2, "response": 4}
    text = printed("polarity", "--rounds=1", *(f"--{name}={size}" for name, size in sizes.items()))

    assert "vocabulary 64:" in text and "ratio" in text
    assert statistics._whole is script("polarity").WITHOUT["_whole"]  # the last that was timed


@pytest.mark.parametrize(
    "vocab_chunk", [pytest.param(64, id="whole"), pytest.param(16, id="streamed")]
)
def test_without_polarity_logprob_and_entropy_are_the_same(script, vocab_chunk, monkeypatch):
    polarity = script("polarity")
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(5, 8, generator=generator), torch.randn(64, 8, generator=generator)

    def scored(functions):
        for name, function in functions.items():
            monkeypatch.setattr(statistics, name, function)
        return statistics.token_statistics(
            hidden, weight, torch.arange(5), temperature=1.0, vocab_chunk=vocab_chunk
        )

    without, full = scored(polarity.WITHOUT), scored(polarity.WITH)
    torch.testing.assert_close(without[:2], full[:2])
    assert not torch.equal(without.sum_s2, full.sum_s2)


# probe.py


def test_probe_prints_a_row_per_fault(script, printed, model, monkeypatch):
    def prepare(config):  # the random model in the place of the embedded one
        task = TASKS[config.task.name].make(config.task)
        return Prepared(model=model, task=task, chat=load_chat(model), dropped={})

    monkeypatch.setattr(script("probe"), "prepare", prepare)
    monkeypatch.setattr(script("probe"), "PROBE_TOKENS", 1)
    text = printed("probe", "--probes", 10, "--wrong", 10)

    rows = [line[:13].strip() for line in text.splitlines()[-6:]]
    assert rows == ["right", "shifted", "permuted", "stale 1", "stale 0.3", "stale 0.1"]


def test_only_wrong_weights_leave_a_gap(script, model):
    probe = script("probe")
    models = dict(probe.faults(model.path))
    prompts = torch.arange(12).view(4, 3)
    found = {
        name: probe.gaps(wrong, models["right"], prompts, end=-1) for name, wrong in models.items()
    }

    assert {len(gap) for gap in found.values()} == {4 * probe.PROBE_TOKENS}
    assert [name for name, gap in found.items() if not gap.any()] == ["right"]


def test_wrong_weights_of_a_probe(script, model):
    models = dict(script("probe").faults(model.path))

    def layer(name, index):
        parameters = models[name].model.layers[index].parameters()
        return torch.cat([parameter.detach().flatten() for parameter in parameters])

    assert torch.equal(layer("permuted", 0), layer("right", 1))
    assert torch.equal(layer("permuted", 1), layer("right", 0))
    way = layer("stale 1", 1) - layer("right", 1)
    for share in (0.3, 0.1):
        moved = layer(f"stale {share}", 1) - layer("right", 1)
        torch.testing.assert_close(moved, share * way, rtol=0, atol=1e-6)
    assert way.abs().max() > 0.01


def test_statistics_of_a_probe_by_hand(script):
    """Gaps of -1, 0 and 3 nats; what is above 1 counts as 1 in the capped mean."""
    probe = script("probe")
    found = {
        name: float(of(np.array([[-1.0, 0.0, 3.0]]))[0]) for name, of in probe.STATISTICS.items()
    }
    k3 = (np.exp(-1) + np.exp(3) - 4) / 3  # the mean of e^x - 1 - x
    assert probe.CAP == 1.0
    assert found == pytest.approx(
        {"max": 3, "mean": 4 / 3, "capped mean": 2 / 3, "k3": k3, "median": 1, "p99": 2.96}
    )


# head.py


def test_errors_of_torchs_head_are_small(script):
    head = script("head")
    errors = head.head_errors("torch", head.SMALL, "cpu")
    gradients = [errors.pop("grad_hidden_error"), errors.pop("grad_weight_error")]
    assert max(gradients) < 2**-8  # bfloat16
    assert list(errors) == [f"{name}_error" for name in statistics.TokenStatistics._fields]
    assert max(errors.values()) < 1e-5


# attribution.py


def book(measured, residual):
    """A row whose parts add up to what was measured, but for the residual."""
    parts = {"momentum": 0.0, "decay": 0.0, "curvature": residual, "residual": residual}
    parts |= dict.fromkeys(("measured", "now", "trapezoid", "tokens"), measured)
    return {f"ledger/{name}": value for name, value in parts.items()}


@pytest.mark.parametrize(
    ("residual", "holds", "explained"),
    [
        pytest.param(0.0, True, "1.00000   >= 0.99: held", id="all is explained"),
        pytest.param(1.0, False, "-0.50000   >= 0.99: NOT held", id="1 - 3 / 2: all is missed"),
    ],
)
def test_books_by_hand(script, residual, holds, explained, tmp_path, capsys):
    rows = [book(float(measured), residual) for measured in (1, 2, 3)]
    write(tmp_path / "metrics.jsonl", [{"step": 0}, *rows])
    write(tmp_path / "updates.jsonl", rows)

    assert script("attribution").print_books([tmp_path], None) == holds
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["steps", "3"]
    assert lines[2].split(maxsplit=3)[3] == explained


def test_books_are_made_anew_by_the_job(script, tmp_path, monkeypatch):
    attribution = script("attribution")

    def job(arguments):
        options, overrides = attribute_command.OPTIONS.parse(arguments)
        assert options == {"run": str(tmp_path), "steps": "1-3", "name": attribution.NAME}
        assert overrides == []
        for name in (STEPS, UPDATES):
            write(tmp_path / "attribution" / options["name"] / name, [book(1.0, 0.0)])
        return 0

    monkeypatch.setattr(attribution, "attribute", job)
    assert attribution.books(tmp_path, "1-3") == {
        "step": [book(1.0, 0.0)],
        "update": [book(1.0, 0.0)],
    }


def test_cost_by_hand(script, tmp_path, capsys):
    """Steps of 70, 10, 10 and 10 s, the third with books: 5 s of updates and accounting for 2 s."""

    def line(step, work, step_s, **more):
        times = {"time/update_s": work - 0.5, "time/accounting_s": 0.5, "time/step_s": step_s}
        return {"step": step} | times | more

    measured = line(3, 5.0, 10.0) | book(1.0, 0.0)
    lines = [line(1, 60.0, 70.0), line(2, 2.0, 10.0), measured, line(4, 2.0, 10.0)]
    write(tmp_path / "with" / "metrics.jsonl", [{"step": 0}, *lines])
    write(tmp_path / "without" / "metrics.jsonl", [line(step, 2.0, 20.0) for step in range(1, 5)])
    script("attribution").print_cost(tmp_path / "with", tmp_path / "without")

    text = capsys.readouterr().out
    assert "2.00 s per step, 5.00 s if measured (1 steps), of 10.00 s per step" in text
    assert "share of this run: 3.00%" in text  # 3 of 100 s
    assert "share at every=25: 1.20%" in text  # 3 s in 25 steps of 10 s
    assert "4 steps: 100.0 s with, 80.0 s without, ratio 1.250" in text


# sensitivity.py


@pytest.mark.parametrize(
    ("side", "advantage", "old_logprob", "bound"),
    [
        pytest.param("left", -1.0, 0.0, 0.8, id="left: punished, far below the bound"),
        pytest.param("right", 1.0, -20.0, 1.2, id="right: rewarded, far above the bound"),
    ],
)
def test_inner_product_of_one_answer(script, side, advantage, old_logprob, bound, model):
    """<grad H, g> by the whole model's logits in float64."""
    sensitivity = script("sensitivity")
    batch = script("learner").make_batch(Namespace(**vars(OPTIONS) | {"sequences": 1}), 128)
    (packed,) = batch.updates[0]
    packed.fields["advantage"][:] = advantage
    packed.fields["old_logprob"][:] = old_logprob
    run = SimpleNamespace(config=config_of(["experiment=ce_gppo_tiny"]))
    learner = sensitivity.make(
        sensitivity.MeasuringLearner, run, Prepared(model=model, task=None, chat=None, dropped={})
    )
    assert learner.update(batch).policy_version == 1
    learner.close()

    lm = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float64)
    logits = lm(input_ids=torch.from_numpy(packed.token_ids)[None]).logits[0, packed.predict]
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1).mean()
    chosen = logprobs.gather(1, torch.from_numpy(packed.target)[:, None])
    gradients = [
        torch.autograd.grad(value, list(lm.parameters()), retain_graph=True)
        for value in (entropy, (bound * advantage * chosen).mean())
    ]
    wanted = sum(float((a * b).sum()) for a, b in zip(*gradients, strict=True))
    assert {"left": learner.left, "right": learner.right} == {
        "left": [], "right": [], side: [pytest.approx(wanted, rel=1e-3)]
    }  # fmt: skip


# sweep.py


def test_both_ways_of_a_sweep_are_the_same_runs(script, printed, tmp_path, monkeypatch):
    def job(file, arguments, env):
        if file == "train.py":
            alone.append(config_of(arguments))
            return
        options, overrides = sweep_command.OPTIONS.parse(arguments)
        assert options == {"name": "all", "parallel": 2}
        together.extend(
            trial.config
            for trial in compose_trials(plan_of({}, overrides), tmp_path, early_stop=False)
        )
        write(Path(env["ISENTROPIC_RUNS"]) / "all" / "sweep.jsonl", [])

    alone, together = [], []
    replace_run(monkeypatch, script("sweep"), job)
    printed("sweep", "--runs", 3, "--steps", 10, "parallel=2")

    (one,) = alone
    assert [config.seed for config in together] == [0, 1, 2]
    assert [(config.run.steps, config.rollout) for config in together] == [(10, one.rollout)] * 3
    assert one.run.steps == 10


@pytest.mark.parametrize(
    ("rows", "beside"),
    [
        pytest.param(
            [
                {"state": "running"},
                {"state": "done", "overhead_s": 9.0, "started_actors": True},
                {"state": "failed", "overhead_s": 50.0, "started_actors": False},
                {"state": "done", "overhead_s": 2.0, "started_actors": False},
                {"state": "done", "overhead_s": 4.0, "started_actors": False},
            ],
            {"mean": 3.0, "most": 4.0},
            id="two runs found their actors",
        ),
        pytest.param(
            [{"state": "done", "overhead_s": 9.0, "started_actors": True}],
            {"mean": None, "most": None},
            id="every run had its own actors",
        ),
    ],
)
def test_summary_of_a_sweep_by_hand(script, rows, beside):
    given = Namespace(runs=3, steps=10)
    found = script("sweep").summary(given, alone=100.0, sweep=150.0, rows=rows)
    assert found["sweep / (runs x one run)"] == 0.5
    assert found["beside its steps, on actors that were there, s"] == beside


# overlap.py and segments.py


@pytest.mark.parametrize("case", ["a", "b", "b16", "c"])
def test_overlap_differs_only_in_staleness(script, case, monkeypatch):
    overlap = script("overlap")
    configs = []

    def run_here(overrides, folder):
        configs.append(config_of(overrides))
        line = {f"time/{phase}_s": 1.0 for phase in ("step", *overlap.PHASES)}
        return [(0.0, {"step": step} | line) for step in (1, 2, 3)]

    monkeypatch.setattr(overlap, "run_here", run_here)
    found = overlap.compare(case, 2, ["learner.lr=1e-3"], 0)
    on_policy, overlapped = configs

    assert found.keys() == {overlap.ON_POLICY, overlap.OVERLAPPED}
    assert (on_policy.run.steps, on_policy.learner.lr) == (4, 1e-3)
    ahead = replace(on_policy.rollout, max_staleness=1)
    assert on_policy.rollout != ahead and replace(on_policy, rollout=ahead) == overlapped


@pytest.mark.parametrize(
    ("more", "cut", "lag"),
    [
        pytest.param([], 128, 5, id="as it is"),
        pytest.param(
            ["rollout.segment_tokens=64", "rollout.max_lag=10"], 64, 10, id="of other lengths"
        ),
    ],
)
def test_segments_differ_only_in_their_length(script, more, cut, lag, monkeypatch):
    segments = script("segments")
    configs = []

    def run_here(overrides, folder):
        configs.append(config_of(overrides).rollout)
        return [(0.0, segment_line(step)) for step in (1, 2, 3)]

    monkeypatch.setattr(segments, "run_here", run_here)
    assert segments.compare(9, more, 0).keys() == {segments.WHOLE, segments.SEGMENTS}
    whole, in_segments = sorted(configs, key=lambda rollout: rollout.segment_tokens or 0)

    assert (whole.segment_tokens, in_segments.segment_tokens) == (None, cut)
    assert in_segments.max_lag == lag
    assert replace(in_segments, segment_tokens=None, max_lag=whole.max_lag) == whole
    assert whole.prompts_per_step * whole.group_size == segments.ANSWERS


def segment_line(step, step_s=1.0, rollout_s=1.0, tokens=1.0, cut=0.0):
    times = {"time/step_s": step_s, "time/rollout_s": rollout_s}
    return {"step": step, "response/tokens_mean": tokens, "response/truncated_frac": cut} | times


def test_segments_by_hand(script):
    """Steps 3 and 4 count: 32 answers of 10 and 30 tokens in 2 + 6 s."""
    segments = script("segments")

    def run(rollout_s, faster=1):
        lines = [segment_line(step, step_s=100.0) for step in (1, 2)]
        lines += [segment_line(3, 2.0 / faster, rollout_s, 10.0, 0.0)]
        lines += [segment_line(4, 6.0 / faster, rollout_s, 30.0, 0.5)]
        return segments.row([(0.0, line) for line in lines])

    assert run(3.0) == {
        "tokens per answer": 20.0, "% at the limit": 25.0, "step": 4.0, "longest step": 6.0,
        "rollout": 3.0, "tokens/s": 160.0,
    }  # fmt: skip
    text = segments.table([{segments.WHOLE: run(3.0), segments.SEGMENTS: run(2.0, faster=2)}])
    assert "ratio    2.00 by tokens/s, 1.50 by rollout seconds" in text


# soak.py


def test_the_soaks_run_is_a_run_and_its_driver(script, tmp_path, monkeypatch):
    soak = script("soak")
    started = []
    popen = SimpleNamespace(Popen=lambda command, **_: started.append(command), DEVNULL=None)
    monkeypatch.setattr(sys.modules["training_job"], "subprocess", popen)
    soak.Soak(tmp_path / "run", seed=3, steps=7, overrides=["seed=3"]).start()

    (command,) = started
    config = config_of(command[2:])
    assert (config.run.steps, config.seed, config.run.dir) == (7, 3, str(tmp_path / "run"))
    assert config.task.train_size == soak.TRAIN_SIZE
    assert soak.role_of(" ".join(command)) == "driver"


def test_processes_are_told_by_their_commands(script):
    role_of = script("soak").role_of
    engine, rank = (
        f"ray::{actor.__ray_metadata__.class_name}" for actor in (RolloutActor, LearnerActor)
    )
    assert (role_of(engine), role_of(f"{rank}.update")) == ("engine", "rank")
    assert role_of(f"{RAYLET_EXECUTABLE} --raylet_socket_name=/tmp/ray") == "object store"
    assert role_of(f"{GCS_SERVER_EXECUTABLE} --log_dir=/tmp/ray") == ""
    # As tasks/grading/pool.py starts the workers' server.
    assert role_of(f"{sys.executable} -P -m {server.__name__} 5") == "reward worker"


# gpu_check.py


@pytest.mark.parametrize(
    ("part", "steps", "steps_if_small", "placement"),
    [("shared", 3, 3, "shared"), ("apart", 3, 3, "apart"), ("sync", 200, 2, "shared")],
)
@pytest.mark.parametrize("small", [False, True])
def test_settings_of_a_part_that_trains(
    script, part, steps, steps_if_small, placement, small, monkeypatch
):
    """A rank and an engine have a GPU together, or none."""
    gpu_check = script("gpu_check")
    configs = []

    def job(file, arguments, env):
        configs.append(config_of(arguments))
        rows = [{"step": step, "update/count": 1, "time/sync_s": 2.0} for step in (1, 2)]
        write(Path(configs[0].run.dir) / "metrics.jsonl", rows)

    replace_run(monkeypatch, gpu_check, job)
    monkeypatch.setattr(gpu_check, "_save_model", lambda sizes, folder: folder)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert gpu_check.PARTS[part](small) == [{"steps": 2, "time/sync_s": 2.0}]

    (config,) = configs
    cluster = config.cluster
    assert config.run.steps == (steps_if_small if small else steps)
    assert cluster.placement == placement
    assert cluster.gpus_per_engine == cluster.gpus_per_rank == (0 if small else 0.5)
    assert config.rollout.dtype == config.learner.dtype == ("float32" if small else "bfloat16")
