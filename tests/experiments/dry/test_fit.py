"""Every preset fits the machine that it names; what does not fit is refused with what would."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from isentropic.experiments.dry.describe import shaped_config
from isentropic.experiments.dry.fit import Placed, find_problems
from isentropic.experiments.dry.lines import find_times, plan_lines
from isentropic.experiments.dry.machines import find_machine
from isentropic.experiments.dry.memory import gpu_bytes
from isentropic.experiments.dry.work import find_disk, find_work

PAGE = Path(__file__).resolve().parents[3] / "docs" / "cluster.md"
MATH = ["task.path=train.jsonl", "run.dry=true"]
GIB = 2**30


def placed(config):
    work = find_work(config, held_out=1024)
    return Placed(
        config=config, model=shaped_config(config.model), work=work, machine=find_machine(config)
    )


def problems(config):
    run = placed(config)
    return find_problems(run, find_disk(config, run.model, run.work))


@pytest.mark.parametrize(
    "choice",
    [
        "experiment=ce_gppo_1x24",
        "experiment=ce_gppo_1x80",
        "experiment=ce_gppo_8x80",
        "experiment=ce_gppo_1p5b",
        "experiment=ce_gppo_7b",
        "experiment=uec_rl_math",
        "experiment=uec_rl_geometry3k",
        "model=qwen3-4b task=math cluster=gpu_8x80",
    ],
)
def test_a_preset_fits_its_machine(settings, choice):
    config = settings(*choice.split(), *MATH)

    assert config.cluster.assume is not None
    assert problems(config) == []
    assert any("ESTIMATE" in line for line in plan_lines(placed(config), _disk(config), fits=True))


def _disk(config):
    run = placed(config)
    return find_disk(config, run.model, run.work)


def page_rows():
    """{preset: [GiB of GPUs, tokens, step, steps, hours, disk] as the page on clusters has them}."""
    row = r"^\| `(\w+)`, [^|\n]*\|[^|\n]*\|[^|\n]*\|(.*)\|$"
    rows = re.findall(row, PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


@pytest.mark.parametrize("preset", page_rows())
def test_the_page_has_what_the_plan_says(settings, preset):
    run = placed(settings(f"experiment={preset}", *MATH))
    gpus, times = gpu_bytes(run.config, run.needs).values(), find_times(run)
    evaluation = round(run.work.evaluations * times.evaluation / 3600)
    hours = f"{times.run / 3600:.0f}" + (f", of it {evaluation}" if evaluation else "")

    tokens = run.work.drawn_tokens / 1e6
    assert page_rows()[preset] == [
        ", ".join(f"{size / GIB:.0f}" for size in gpus) + " GiB",
        f"{tokens:.{0 if tokens >= 2 else 1}f} M",
        f"{times.step / 60:.0f} min",
        str(run.config.run.steps),
        hours,
        f"{find_disk(run.config, run.model, run.work).total / GIB:.0f} GiB",
    ]


SEVEN = ["experiment=ce_gppo_7b", *MATH]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        pytest.param(
            ["learner.num_ranks=32"], r"needs 40 GPUs.*cluster\.assume has 2 x 8", id="GPUs"
        ),
        pytest.param(
            ["cluster.assume.gpu_gib=24"], r"GPU of a rank needs about", id="a rank's GPU"
        ),
        pytest.param(
            ["rollout.kv_cache_gib=75"],
            r"GPU of an engine needs about .* Set rollout\.kv_cache_gib=\d+",
            id="an engine's GPU",
        ),
        pytest.param(
            ["rollout.kv_cache_gib=0.2"],
            r"fewer than the 20480 of model\.max_length.*Set rollout\.kv_cache_gib=0\.6 or more",
            id="not one answer in the cache",
        ),
        pytest.param(["cluster.assume.host_gib=100"], r"node 2, with 0 engines and 8", id="host"),
        pytest.param(
            ["+cluster.assume.shm_gib=16"], r"object store .* needs 28\.37 GiB", id="/dev/shm"
        ),
        pytest.param(
            ["+cluster.assume.disk_gib=100"], r"grows to about .*checkpoint\.keep_best=0", id="disk"
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(settings, overrides, message):
    found = "\n".join(problems(settings(*SEVEN, *overrides)))

    assert re.search(message, found), found


@pytest.mark.parametrize("fixed", ["learner.context_parallel=4", "learner.replicas=4"])
def test_a_change_that_the_config_does_not_allow_is_no_way_out(settings, fixed):
    """Half of four ranks would not hold four replicas: the plan says what else would do."""
    four = "cluster.assume={nodes: 1, gpus: 4, gpu_gib: 80, host_gib: 500}"
    found = "\n".join(problems(settings("experiment=ce_gppo_8x80", *MATH, four, fixed)))

    assert re.search(r"the run needs 8 GPUs .*cluster\.assume has 1 x 4\.", found), found
    assert "learner.num_ranks=2" not in found


def test_ranks_that_a_run_would_refuse_are_a_problem(settings):
    uneven = ["learner.num_ranks=9", "rollout.tensor_parallel=1"]
    found = "\n".join(problems(settings(*SEVEN, *uneven)))

    assert "learner.num_ranks=9: a node holds at most 8 ranks" in found
    spread = ["cluster.strategy=SPREAD", "cluster.assume.host_gib=400"]
    assert problems(settings(*SEVEN, *spread)) == []  # ranks on one node, engines on the other


def test_a_cluster_that_was_asked_is_judged(settings):
    config = settings(*SEVEN, "cluster.assume=null")
    machine = find_machine(settings(*SEVEN))
    small = replace(machine, nodes=1, store_bytes=4 * GIB, gpu_bytes=None)
    run = replace(placed(config), machine=small)
    found = "\n".join(find_problems(run, find_disk(config, run.model, run.work)))

    assert "the run needs 16 GPUs (8 ranks and 4 engines of 2" in found
    assert "the cluster has 1 x 8" in found
    assert "it gets 4.00 GiB" in found and "start its Ray with --object-store-memory=" in found


def test_the_settings_that_are_named_are_enough(settings):
    """Each of them alone, or all of them together."""
    tight = ["learner.gradient_checkpointing=false", "learner.unsharded_gradient_gib=100"]
    (problem,) = problems(settings(*SEVEN, *tight))
    named = re.findall(r"([a-z_]+\.[a-z_]+)=(\S+?)[. ](?=\s|Set|or|$|[a-z])", problem + " ")
    assert named
    together = "Set together" in problem
    for changes in [named] if together else [[change] for change in named]:
        overrides = [f"{key}={value}" for key, value in changes]
        assert problems(settings(*SEVEN, *tight, *overrides)) == []


@pytest.mark.parametrize(
    ("choice", "parameters"),
    [
        ("qwen2.5-0.5b", 494_032_768),
        ("r1-distill-qwen-1.5b", 1_777_088_000),
        ("qwen3-4b", 4_022_468_096),
        ("r1-distill-qwen-7b", 7_615_616_512),
    ],
)
def test_shapes_of_the_presets(settings, choice, parameters):
    """As many parameters as the published files have."""
    from isentropic.learner.model import count_parameters

    config = settings(f"model={choice}", "task=math", *MATH)
    assert count_parameters(shaped_config(config.model)) == parameters
