"""The benchmarks against TRL and of the overlap: their arithmetic, and that both sides get the same."""

import importlib
import sys
from pathlib import Path

import pytest

from isentropic.controller.sampler import Sampler
from isentropic.tasks import TASKS

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def peers():
    return load("peers")


@pytest.fixture(scope="module")
def overlap(peers):
    return load("overlap")


def load(name):
    path = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path[:] = path  # a script puts `platform` first


# What TRL gets, worked out by hand: prompts x answers / updates, updates x steps.
@pytest.mark.parametrize(
    ("case", "batch", "updates", "tokens", "lr"),
    [
        pytest.param("a", 64, 8, 48, 2e-4, id="a: 512 answers in 8 updates"),
        pytest.param("b", 16, 2, 256, 1e-5, id="b: 32 answers in 2 updates"),
        pytest.param("b16", 16, 2, 256, 1e-5, id="b16: the same"),
        pytest.param("c", 256, 2, 48, 2e-4, id="c: 512 answers in 2 updates"),
    ],
)
def test_both_sides_are_asked_for_the_same(peers, case, batch, updates, tokens, lr, tmp_path):
    config = peers.read(peers.settings(peers.CASES[case], 4))
    trl = peers.trl_arguments(config, tmp_path)
    rollout, learner = config.rollout, config.learner

    assert trl["per_device_train_batch_size"] == batch
    assert trl["steps_per_generation"] == learner.updates_per_rollout == updates
    assert batch * updates == rollout.prompts_per_step * rollout.group_size
    assert trl["max_steps"] == 5 * updates and config.run.steps == 5  # one is not counted
    assert trl["num_generations"] == rollout.group_size == 8
    assert trl["max_completion_length"] == rollout.max_response_tokens == tokens
    assert trl["learning_rate"] == learner.lr == lr
    assert (trl["temperature"], trl["top_p"], trl["top_k"]) == (1.0, 1.0, 0)
    assert (rollout.temperature, rollout.top_p, rollout.top_k) == (1.0, 1.0, -1)
    assert (trl["epsilon"], trl["epsilon_high"]) == (0.2, 0.28)
    assert (config.objective.clip_low, config.objective.clip_high) == (0.2, 0.28)
    assert (config.filter.name, config.reduction.name) == ("keep_all", "token_mean")
    assert learner.dtype == rollout.dtype == ("bfloat16" if case == "b16" else "float32")
    assert trl["bf16"] == (case == "b16")


def test_both_sides_read_the_same_prompts(peers):
    more = ["rollout.prompts_per_step=8", "seed=3"]
    config = peers.read(peers.settings(peers.CASES["a"], 2, more))
    task = TASKS[config.task.name].make(config.task)
    drawn = Sampler(
        task=task, chat=None, pool=None, grader=None, config=config.rollout, seed=3, window=128
    )
    prompts = peers.train_prompts(config, task)
    assert prompts == [drawn.prompt("train", draw) for draw in range(24)]  # 3 steps of 8


def test_an_override_reaches_both_sides(peers, tmp_path):
    config = peers.read(
        peers.settings(peers.CASES["a"], 1, ["learner.lr=1e-3", "filter=drop_flat"])
    )
    assert config.filter.name == "drop_flat"
    assert peers.trl_arguments(config, tmp_path)["learning_rate"] == config.learner.lr == 1e-3


def test_speed_by_hand(peers):
    """Line 0 and step 1 do not count: 2 steps of 8 answers in 4 s, 10 and 20 tokens an answer."""
    seen = [
        (0.0, {"step": 0}),
        (100.0, {"step": 1, "tokens": 1000.0}),
        (101.0, {"step": 2, "tokens": 10.0}),
        (104.0, {"step": 3, "tokens": 20.0}),
    ]
    found = peers.measured(seen, 8, "tokens")
    assert (found.samples_s, found.tokens_s, found.tokens, found.step_s) == (4.0, 60.0, 15.0, 2.0)
    assert found.line["step"] == 3


def test_a_run_of_one_step_says_nothing(peers):
    with pytest.raises(SystemExit, match="two steps or more"):
        peers.measured([(0.0, {"step": 0}), (1.0, {"step": 1, "tokens": 1.0})], 8, "tokens")


def test_the_table_has_each_rounds_ratio(peers):
    lines = {
        peers.HERE: {"step": 2, "reward/mean": 0.5, "entropy/mean": 0.4},
        peers.PEER: {"step": 2, "reward": 0.25, "entropy": 0.3},
    }

    def side(name, samples_s):
        return peers.Measured(samples_s, samples_s * 10, 10.0, 8 / samples_s, lines[name])

    rounds = [
        {peers.HERE: side(peers.HERE, here), peers.PEER: side(peers.PEER, peer)}
        for here, peer in [(10.0, 5.0), (12.0, 4.0), (10.0, 10.0)]
    ]
    assert peers.ratios(rounds, "samples_s") == [2.0, 3.0, 1.0]  # not 10 / 5, that of the medians
    text = peers.table("a", rounds)
    assert "ratio       2.00 (1.00 to 3.00) by samples" in text
    assert "reward 0.500" in text and "0.300 nats" in text


# Writes a line whole, one in two parts, and ends as it is asked.
CHILD = """
import sys, time
with open(sys.argv[1], "w") as file:
    for part in ('{"step": 1}\\n', '{"st', 'ep": 2}\\n'):
        file.write(part)
        file.flush()
        time.sleep(0.1)
print("why it ended")
sys.exit(int(sys.argv[2]))
"""


def test_lines_are_seen_when_they_are_whole(peers, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    child = [sys.executable, "-c", CHILD, str(metrics), "0"]
    seen = peers.watch(child, metrics, tmp_path / "log", {})
    assert [line for _, line in seen] == [{"step": 1}, {"step": 2}]
    assert seen[1][0] - seen[0][0] > 0.1  # the second was whole 0.2 s after the first


def test_a_side_that_fails_is_shown(peers, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    child = [sys.executable, "-c", CHILD, str(metrics), "3"]
    with pytest.raises(SystemExit, match=r"ended with code 3:\nwhy it ended"):
        peers.watch(child, metrics, tmp_path / "log", {})


def test_overlap_by_hand(overlap):
    """On policy 2 + 3 s of 5.5; overlapped 3 and 4 s of 4.4: 4.4 / 4, 4.4 / 3 and 5.5 / 4.4."""

    def run(step, rollout, update):
        line = {f"time/{phase}_s": 0.0 for phase in overlap.PHASES}
        line |= {"time/step_s": step, "time/rollout_s": rollout, "time/update_s": update - 1}
        line |= {"time/old_logprob_s": 0.75, "time/recheck_s": 0.25}
        edge = dict.fromkeys(line, 100.0)  # first and last do not count
        lines = [{"step": 1} | edge, {"step": 2} | line, {"step": 3} | edge]
        return overlap.seconds([(0.0, each) for each in lines])

    found = {overlap.ON_POLICY: run(5.5, 2.0, 3.0), overlap.OVERLAPPED: run(4.4, 3.0, 4.0)}
    assert found[overlap.OVERLAPPED]["learn"] == 4.0
    text = overlap.table("a", [found])
    assert "1.10 by its own times (wanted: at most 1.15), 1.47 by those on policy" in text
    assert "on policy / overlapped: 1.25" in text
