"""Answers, tokens, disk and seconds, by hand."""

import pytest

from isentropic.experiments.dry.work import (
    ANSWER_SHARE,
    DECODE_SHARE,
    LEDGER_BYTES,
    MFU,
    PROMPT_SHARE,
    STEP_S,
    estimate_times,
    find_disk,
    find_work,
)
from isentropic.learner.estimate import flops_per_token
from isentropic.learner.model import count_parameters

SIZES = [
    "rollout.prompts_per_step=64",
    "rollout.group_size=8",
    "rollout.max_prompt_tokens=40",
    "rollout.max_response_tokens=80",
]


@pytest.mark.parametrize(
    ("overrides", "prompts", "answers"),
    [
        pytest.param([], 64, 512, id="one wave"),
        pytest.param(
            ["sampling=refilled", "sampling.draw_prompts=100", "sampling.max_draws=3"],
            300,
            2400,
            id="three draws at most",
        ),
        pytest.param(
            ["method=uec_rl", "uec.explore_size=20"], 64, 64 * 28, id="20 more for each prompt"
        ),
    ],
)
def test_answers_of_a_step(settings, overrides, prompts, answers):
    work = find_work(settings(*SIZES, *overrides), held_out=10)

    assert (work.prompts, work.answers, work.trained) == (prompts, answers, 512)
    assert work.most_tokens == answers * 120
    assert work.drawn_tokens == answers * 80 * ANSWER_SHARE


@pytest.mark.parametrize(
    ("every", "steps", "times"),
    [(20, 60, 4), (20, 50, 4), (0, 60, 0)],  # 0, 20, 40 and the last step
)
def test_evaluations(settings, every, steps, times):
    config = settings(f"evaluation.every={every}", f"run.steps={steps}", "evaluation.samples=4")
    work = find_work(config, held_out=10)

    assert work.evaluations == times
    assert work.evaluation_answers == (40 if every else 0)


def test_disk(settings, small):
    config = settings(*SIZES, "run.steps=10", "checkpoint.keep_last=2", "checkpoint.keep_best=1")
    disk = find_disk(config, small, find_work(config, held_out=0))

    tokens = 10 * 512 * (80 * ANSWER_SHARE + 40 * PROMPT_SHARE)
    assert disk.ledger == pytest.approx(LEDGER_BYTES * tokens)
    assert disk.checkpoints == 4 * 12 * count_parameters(small)  # one is being written


@pytest.mark.parametrize(
    ("every", "answers"),
    [
        pytest.param(4, 4 * 30 + 10, id="after steps 0, 4, 8 and 10, and one each for the entropy"),
        pytest.param(0, 10, id="never, but for the entropy of the start"),
    ],
)
def test_answers_of_evaluations_need_disk_too(settings, small, every, answers):
    overrides = [f"evaluation.every={every}", "evaluation.samples=3", "run.steps=10"]
    config = settings(*SIZES, *overrides)
    without, with_them = (
        find_disk(config, small, find_work(config, held_out=held_out)) for held_out in (0, 10)
    )
    tokens = answers * (80 * ANSWER_SHARE + 40 * PROMPT_SHARE)
    assert with_them.ledger - without.ledger == pytest.approx(LEDGER_BYTES * tokens)


def test_what_is_in_flight_needs_disk_too(settings, small):
    plain = settings(*SIZES)
    longer = settings(*SIZES, "rollout.segment_tokens=8", "rollout.prompts_in_flight=160")
    disks = [find_disk(config, small, find_work(config, held_out=0)) for config in (plain, longer)]
    assert disks[1].ledger == pytest.approx(2.5 * disks[0].ledger)


def test_seconds(settings, small):
    """The learner at its share of the peak; 512 answers at once, bound by the memory's speed."""
    config = settings(
        *SIZES, "cluster=gpu", "run.dry=true", "rollout.max_num_seqs=512", "learner.num_ranks=2"
    )
    work = find_work(config, held_out=0)
    times = estimate_times(config, small, work, gpu="NVIDIA H100", cache=256)

    length = 40 * PROMPT_SHARE + 80 * ANSWER_SHARE
    forward = flops_per_token(small, length, backward=False)
    assert times.learner == pytest.approx(4 * forward * length * 512 / (2 * 989e12 * MFU))
    moved = count_parameters(small) * 4 + 512 * (10 + 16) * 256
    step = moved / (3.35e12 * DECODE_SHARE) + STEP_S
    longest = 80 * (STEP_S + (count_parameters(small) * 4 + 26 * 256) / (3.35e12 * DECODE_SHARE))
    assert times.rollout == pytest.approx(max(80 * ANSWER_SHARE * step, longest))
    assert times.step == pytest.approx(times.rollout + times.learner + times.sync)
    # In float32, by way of Ray's object store at 0.5 GB a second; a broadcast has 2.
    assert times.sync == pytest.approx(4 * count_parameters(small) / 0.5e9)
    lent = settings(*SIZES, "cluster=gpu", "run.dry=true", "weights.transport=broadcast")
    times = estimate_times(lent, small, work, gpu="NVIDIA H100", cache=256)
    assert times.sync == pytest.approx(4 * count_parameters(small) / 2e9)


@pytest.mark.parametrize(
    ("in_flight", "least", "most"),
    [
        pytest.param(64, 1.0, 1.0, id="nothing in flight: as long as the longest answer"),
        pytest.param(128, 0.5, 0.9, id="twice a step"),
        pytest.param(320, 0.3, 0.5, id="five times a step: hardly a slot is empty"),
    ],
)
def test_seconds_with_segments(settings, small, in_flight, least, most):
    """Slots for a step's 512 answers. Whole, drawing waits for the longest, of 80 tokens."""

    def times(*overrides):
        config = settings(
            *SIZES, "cluster=gpu", "run.dry=true", "rollout.max_num_seqs=512",
            "rollout.num_actors=1", *overrides,
        )  # fmt: skip
        work = find_work(config, held_out=10)
        return estimate_times(config, small, work, gpu="NVIDIA H100", cache=256)

    def step(count):
        moved = count_parameters(small) * 4 + count * (10 + 16) * 256
        return moved / (3.35e12 * DECODE_SHARE) + STEP_S

    found = times(
        "rollout.segment_tokens=8", f"rollout.prompts_in_flight={in_flight}", "rollout.max_lag=8"
    )
    assert least <= found.rollout / times().rollout <= most * 1.01
    assert found.evaluation == pytest.approx(80 * step(1))  # evaluations are drawn whole


def test_no_seconds_for_a_cpu(settings, small):
    config = settings(*SIZES)
    work = find_work(config, held_out=0)
    assert estimate_times(config, small, work, gpu=None, cache=256) is None
