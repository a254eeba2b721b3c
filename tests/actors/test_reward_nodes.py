"""Answers are checked by the workers of another node: here by those that Ray starts beside the test."""

import json
import pickle

import pytest
import ray

from isentropic.actors import reward_nodes
from isentropic.actors.reward_nodes import start_reward_nodes
from isentropic.tasks.grading.lanes import PlaceLost
from isentropic.tasks.grading.outcome import Failed, Paid
from isentropic.tasks.grading.pool import RewardError
from isentropic.tasks.grading.rewards import RewardsConfig, RewardWorkers
from isentropic.tasks.math import MathConfig, MathTask

CONFIG = RewardsConfig(
    workers=None, timeout_s=60.0, deadline_s=300.0, memory_gib=4.0, batch_size=2,
    reward_on_error=0.0, max_errors_in_a_row=None, nodes="all",
)  # fmt: skip


@pytest.fixture
def task(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"problem": f"{n} + 1?", "answer": str(n + 1)}) + "\n" for n in range(8))
    )
    return MathTask(
        MathConfig(
            name="math", path=str(rows), eval_path=None, train_split="train", eval_split="test",
            problem_column="problem", answer_column="answer", image_column=None, limit=None,
            eval_share=0.25, system_prompt=None, suffix="", reward_right=1.0, reward_wrong=0.0,
            truncated_answer="marked", on_bad_row="refuse", on_long_prompt="refuse",
        )
    )  # fmt: skip


@pytest.fixture
def elsewhere(ray_session, monkeypatch):
    """The only node there is, taken for another than the driver's."""
    others = reward_nodes._other_nodes
    monkeypatch.setattr(reward_nodes, "_other_nodes", lambda here: others(""))


def items(task):
    """Right and wrong answers in turn."""
    prompts = [task.prompt("train", index) for index in range(task.size("train"))]
    answers = [prompt.answer if n % 2 else "0" for n, prompt in enumerate(prompts)]
    return [
        (prompt, (rf"\boxed{{{answer}}}",), False)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def start(loop, task, said=None):
    say = [].append if said is None else said.append
    return loop.run_until_complete(start_reward_nodes(task, CONFIG, timeout_s=300.0, say=say))


@pytest.mark.engine
def test_another_node_pays_what_this_one_does_and_may_go(loop, elsewhere, task):
    said, warned = [], []
    (node,) = start(loop, task, said)
    assert node.lanes == 4, "half of the CPUs that Ray has there"
    assert len(said) == 1 and said[0].startswith(f"reward checks on {node.name} are ")

    there = loop.run_until_complete(node.check(items(task), 60.0))
    assert there == [float(n % 2) for n in range(len(there))]

    here = RewardWorkers(task, None, CONFIG, warn=warned.append)
    try:
        here.spread([node])
        assert loop.run_until_complete(here.check(items(task))) == there
        ray.kill(node._actor)
        with pytest.raises(PlaceLost, match=f"The reward workers of {node.name} are lost: "):
            for _ in range(500):  # Ray ends it a moment later
                loop.run_until_complete(node.check(items(task), 60.0))
        assert loop.run_until_complete(here.check(items(task) * 3)) == there * 3
    finally:
        here.close()
    (warning,) = warned
    assert node.name in warning and warning.endswith("Its checks are made by the rest.")


class Unknown:
    """A task whose module another node does not have."""

    def __reduce__(self):
        return __import__, ("sandbox_of_mine",)


@pytest.mark.engine
def test_a_node_that_lacks_the_tasks_code_is_named_before_anything_starts(loop, elsewhere):
    with pytest.raises(RewardError) as raised:
        start(loop, Unknown())
    text = str(raised.value)
    assert text.startswith("node ") and "No module named 'sandbox_of_mine'" in text
    assert "rewards.nodes=driver" in text


@pytest.mark.engine
def test_the_drivers_own_node_is_not_another(loop, ray_session, task):
    assert start(loop, task) == []


def test_rewards_of_parts_and_reasons_travel():
    paid, failed = Paid(1.5, {"form": 0.5}), Failed("raised", "reward.py:3: KeyError")
    for outcome in (paid, failed):
        again = pickle.loads(pickle.dumps(outcome))
        assert (again, type(again), vars(again)) == (outcome, type(outcome), vars(outcome))
