"""Values that are each allowed but do not go together are refused, with the values and a way out."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from isentropic.experiments.settings.checks import (
    check_devices,
    check_together,
    gpus_needed,
    remarks,
)
from isentropic.experiments.settings.load import load
from isentropic.records import Prompt, is_right
from isentropic.rollout import ENGINES

CONF = Path(__file__).resolve().parents[3] / "conf"


@dataclass
class Named:
    name: str


@pytest.fixture(scope="module")
def default():
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return load(
            compose(
                "config",
                ["cluster.address=local", "rollout.max_prompt_tokens=64", "model.max_length=128"],
            )
        )


def changed(config, **changes):
    """The config with values changed: section__key=value, or slot=Named(...)."""
    for key, value in changes.items():
        section, _, name = key.partition("__")
        new = replace(getattr(config, section), **{name: value}) if name else value
        config = replace(config, **{section: new})
    return config


@pytest.fixture(autouse=True)
def _own_ray(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_what_fits_passes(default):
    check_together(default)


MATH = ["task=gsm8k", "task.reward_right=0", "task.reward_wrong=-1"]


@pytest.mark.parametrize(
    ("arguments", "paid"),
    [
        pytest.param([], 0.0, id="a task that does not say what a wrong answer gets"),
        pytest.param(["task=gsm8k"], 0.0, id="a wrong answer gets 0"),
        pytest.param(MATH, -1.0, id="a wrong answer gets -1"),
        pytest.param([*MATH, "rewards.reward_on_error=-2"], -2.0, id="less"),
        pytest.param(
            [*MATH, "rewards.reward_on_error=0"], "more than the -1 .*set it to -1", id="right"
        ),
        pytest.param(
            ["rewards.reward_on_error=0.5"], "more than the 0 that task=arith", id="above 0"
        ),
    ],
)
def test_a_check_that_fails_pays_no_more_than_a_wrong_answer(arguments, paid):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        composed = compose("config", arguments)
    if isinstance(paid, str):
        with pytest.raises(ValueError, match=paid):
            load(composed)
        return
    config = load(composed)
    assert config.rewards.reward_on_error == paid
    prompt = Prompt(prompt_id="p", messages=(), answer="1", reward_right=paid + 1)
    assert not is_right(config.rewards.reward_on_error, prompt)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"rollout__max_response_tokens": 65},
            r"64 \+ 65 = 129, more than model\.max_length=128\. "
            r"Set rollout\.max_response_tokens=64 or less",
            id="window",
        ),
        pytest.param(
            {"rollout__max_prompt_tokens": 200},
            r"more than model\.max_length=128\. Set both lower, such as 64 each, or a longer "
            r"window: model\.max_length=248, if",
            id="window, filled by the prompt",
        ),
        pytest.param(
            {
                "weights__transport": "broadcast",
                "cluster__placement": "shared",
                "cluster__gpus_per_engine": 1.0,
                "rollout__num_actors": 3,
                "learner__num_ranks": 2,
            },
            r"a rank on its own GPU, and 1 would have none there\. Set rollout\.num_actors=2",
            id="broadcast on shared GPUs, to an engine without a rank",
        ),
        pytest.param(
            {"learner__updates_per_rollout": 7},
            r"may be 1, 2, 4, 8, 16, 32, 64",
            id="not divisible",
        ),
        pytest.param(
            {"learner__updates_per_rollout": 128},
            r"updates_per_rollout=128",
            id="more updates than prompts",
        ),
        pytest.param(
            {"rollout__segment_tokens": 49},
            r"segment_tokens=49 is more than rollout\.max_response_tokens=48",
            id="segments longer than a response",
        ),
        pytest.param(
            {"rollout__segment_tokens": 8, "rollout__prompts_in_flight": 63},
            r"prompts_in_flight=63 is less than rollout\.prompts_per_step=64.*Set it to 128",
            id="fewer in flight than a step takes",
        ),
        pytest.param(
            {
                "rollout__segment_tokens": 8,
                "rollout__prompts_in_flight": 129,
                "rollout__max_lag": 1,
            },
            r"max_lag=1 with 129 prompts in flight.* 2 steps later.*max_lag=2 or more.*=128 or less",
            id="more in flight than the lag allows",
        ),
        pytest.param(
            {"rollout__segment_tokens": 8, "rollout__max_lag": 0},
            r"max_lag=0 with 128 prompts in flight",
            id="the default in flight, and no lag",
        ),
        pytest.param(
            {"rollout__prompts_in_flight": 128},
            r"prompts_in_flight=128 without rollout\.segment_tokens",
            id="in flight without segments",
        ),
        pytest.param(
            {"rollout__max_lag": 9},
            r"max_lag=9 without rollout\.segment_tokens",
            id="a lag without segments",
        ),
        pytest.param(
            {"rollout__segment_tokens": 8, "sampling": Named("refilled")},
            r"segment_tokens=8 with sampling=refilled.*Set sampling=one_wave",
            id="segments and refilled sampling",
        ),
        pytest.param(
            {"rollout__segment_tokens": 8, "sampling": Named("second_wave")},
            r"segment_tokens=8 with sampling=second_wave",
            id="segments and a second wave",
        ),
        pytest.param(
            {"rollout__group_size": 1}, r"group_size=1 with advantage=normalised", id="no baseline"
        ),
        pytest.param(
            {"cluster__placement": "shared", "rollout__max_staleness": 1},
            "engines sleep",
            id="stale and shared",
        ),
        pytest.param(
            {"learner__head": "triton"},
            r"learner\.head=triton needs a GPU, and cluster\.gpus_per_rank is 0",
            id="kernels of a GPU on a CPU",
        ),
        pytest.param(
            {"learner__num_ranks": 100_000},
            r"num_ranks=100000 is more than",
            id="more ranks than cores",
        ),
        pytest.param(
            {"learner__replicas": 2, "learner__context_parallel": 2},
            r"num_ranks=2 cannot be split into learner\.replicas=2 .*a multiple of 4 ranks",
            id="groups of ranks that are not whole",
        ),
        pytest.param(
            {"cluster__gpus_per_rank": 1000.0}, r"needs 2000 GPUs", id="more ranks than GPUs"
        ),
        pytest.param(
            {"token_weight": Named("truncated"), "rollout__top_p": 0.9},
            r"^a token_weight \(its name is truncated\) with .*renormalises",
            id="truncated sampling",
        ),
        pytest.param(
            {"evaluation__temperature": 0},
            r"evaluation\.samples=4",
            id="greedy samples are all the same",
        ),
    ],
)
def test_refused(default, changes, message):
    with pytest.raises(ValueError, match=message):
        check_together(changed(default, **changes))


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param({}, id="the defaults"),
        pytest.param({"max_lag": 1}, id="as few steps as two per prompt need"),
        pytest.param({"prompts_in_flight": 64, "max_lag": 0}, id="nothing is carried"),
        pytest.param({"prompts_in_flight": 320}, id="as many as four steps allow"),
    ],
)
def test_segments_that_go_together(default, numbers):
    values = {f"rollout__{name}": value for name, value in numbers.items()}
    check_together(changed(default, rollout__segment_tokens=48, **values))


def test_an_engine_of_several_processes_may_run_on_cpus(default):
    check_together(changed(default, rollout__tensor_parallel=2))


def test_devices_of_a_cluster_are_not_judged_here(default, monkeypatch):
    check_together(changed(default, learner__num_ranks=100_000, cluster__address="auto"))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_together(changed(default, learner__num_ranks=100_000, cluster__address=None))


@pytest.mark.parametrize(
    ("gpus", "placement", "advice"),
    [
        (0, "apart", r"Choose cluster=local for CPUs, or use a cluster"),
        (
            1,
            "apart",
            r"Set learner\.num_ranks=1 rollout\.num_actors=1 cluster=shared_gpu for one GPU",
        ),
        (1, "shared", r"Set learner\.num_ranks=1 rollout\.num_actors=1 for one GPU"),
    ],
)
def test_what_to_do_with_too_few_gpus(default, monkeypatch, gpus, placement, advice):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=rf"this machine has {gpus}\. {advice}"):
        check_devices(changed(default, cluster__gpus_per_rank=1.0, cluster__placement=placement))


def test_gpus_needed_counts_ranks_and_devices_of_engines(default):
    wanted = changed(
        default,
        cluster__gpus_per_rank=1.0,
        cluster__gpus_per_engine=1.0,
        rollout__num_actors=3,
        rollout__tensor_parallel=2,
    )

    assert gpus_needed(wanted) == 2 * 1 + 3 * 2


def test_an_engine_that_cannot_receive_takes_objects(default, monkeypatch):
    class Plain:
        """Draws, but has no receive_weights."""

    config = changed(default, rollout__engine="plain", weights__transport="broadcast")
    monkeypatch.setitem(ENGINES, "plain", Plain)
    with pytest.raises(ValueError, match=r"Plain has no receive_weights\. Set weights\.transport"):
        check_together(config)
    check_together(changed(config, weights__transport="objects"))


SEGMENTS = {"rollout__segment_tokens": 8}
NOTHING_CARRIED = SEGMENTS | {"rollout__prompts_in_flight": 8, "rollout__prompts_per_step": 8}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({}, None, id="drawn and trained in turns"),
        pytest.param({"rollout__max_staleness": 1}, "up to 1 step old", id="drawn ahead"),
        pytest.param(SEGMENTS, "up to 4 steps old", id="carried"),
        pytest.param(SEGMENTS | {"rollout__max_staleness": 2}, "up to 6 steps old", id="both"),
        pytest.param(NOTHING_CARRIED, None, id="segments, and nothing in flight"),
        pytest.param(SEGMENTS | {"token_weight": Named("tis")}, None, id="corrected"),
    ],
)
def test_old_tokens_without_a_weight_are_remarked_on(default, changes, says):
    found = remarks(changed(default, **changes))
    assert [says in each and "token_weight=tis or" in each for each in found] == [True] * bool(says)


@dataclass
class Steered:
    name: str
    schedule: str | None = None
    start_entropy: float | None = None


@pytest.mark.parametrize(
    ("steering", "changes", "expected"),
    [
        (Steered("repo_r"), SEGMENTS, True),
        (Steered("repo_r", start_entropy=0.5), SEGMENTS, False),
        (Steered("repo_r"), NOTHING_CARRIED, False),
        (Steered("repo_r"), {}, False),
        (Steered("flexec", schedule="od"), SEGMENTS, True),
        (Steered("flexec", schedule="raise"), SEGMENTS, False),
    ],
)
def test_a_start_that_is_read_from_short_answers_is_remarked_on(
    default, steering, changes, expected
):
    changes = changes | {"steering": steering, "token_weight": Named("tis")}
    found = remarks(changed(default, **changes))
    assert ["steering.start_entropy" in each for each in found] == [True] * expected
