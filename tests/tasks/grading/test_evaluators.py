"""Checks that parse what a model wrote, in their real workers: code is a wrong answer, hangs and bombs are counted."""

import asyncio
import json

import numpy as np
import pytest

from isentropic.records import Prompt, Rollout, RolloutKey
from isentropic.tasks.calculator import CalculatorConfig, CalculatorTask
from isentropic.tasks.grading.rewards import RewardsConfig, RewardWorkers
from isentropic.tasks.math import MathConfig, MathTask
from isentropic.tasks.reasoning_gym import ReasoningGymConfig, ReasoningGymTask

TOUCH = "__import__('pathlib').Path('{folder}/pwned').touch()"
HOSTILE = (
    TOUCH,
    '"' + TOUCH + '"',
    'sin("' + TOUCH + '")',
    "\\operatorname{{eval}}(" + TOUCH + ")",
    "$$" + TOUCH + "$$",
    "().__class__.__bases__[0].__subclasses__()",
    "9**9**9**9",
    "9^{{9^{{9^{{9}}}}}}",
    "10000000!",
    "(" * 3000,
    "\\frac" * 2000,
    "{{" * 3000 + "1" + "}}" * 3000,
    "[" * 3000,
    "Integral(1/x, x).doit()",
)


class LetterChat:
    """A token is the code of a character."""

    def turn_texts(self, rollout):
        return ["".join(map(chr, rollout.token_ids[start:end])) for start, end in rollout.turns]


def rollout(prompt, answer):
    return Rollout(
        key=RolloutKey("train", 0, 0, 0),
        prompt=prompt,
        token_ids=np.array([0, *map(ord, answer)]),
        turns=((1, 1 + len(answer)),),
        rollout_logprob=np.zeros(len(answer), np.float32),
        temperature=1.0,
        seed=0,
        finish_reason="stop",
        step=1,
        policy_version=0,
    )


def math_task(folder):
    path = folder / "rows.jsonl"
    rows = [
        {"problem": f"{index} + 1/2?", "answer": f"\\frac{{{2 * index + 1}}}{{2}}"}
        for index in range(8)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    values = {"train_split": "train", "eval_split": "test", "image_column": None, "limit": None}
    values |= {"problem_column": "problem", "answer_column": "answer", "eval_path": None}
    values |= {"eval_share": 0.2, "system_prompt": None, "suffix": "", "on_bad_row": "refuse"}
    values |= {"truncated_answer": "marked"}
    values |= {"reward_right": 1.0, "reward_wrong": 0.0, "on_long_prompt": "refuse"}
    return MathTask(MathConfig(name="math", path=str(path), **values))


def reasoning_gym_task(generator):
    values = {"params": {}, "train_size": 5, "eval_size": 1, "seed": 0, "system_prompt": None}
    values |= {"suffix": "", "answer_pattern": None, "allow_nonsense": False}
    values |= {"truncated_answer": "marked"}
    return ReasoningGymTask(
        ReasoningGymConfig(
            name="reasoning_gym", generator=generator, on_long_prompt="refuse", **values
        )
    )


TASKS = {
    "math": (math_task, "so \\boxed{{{}}}"),
    "countdown": (lambda folder: reasoning_gym_task("countdown"), "{}"),
    "simple_integration": (lambda folder: reasoning_gym_task("simple_integration"), "{}"),
    "spiral_matrix": (lambda folder: reasoning_gym_task("spiral_matrix"), "{}"),
    "tower_of_hanoi": (lambda folder: reasoning_gym_task("tower_of_hanoi"), "{}"),
}


@pytest.mark.parametrize("name", TASKS)
def test_hostile_answers_are_wrong_and_the_next_is_graded(name, tmp_path):
    make, form = TASKS[name]
    task = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    prompt = task.prompt("train", 0)
    right = rollout(prompt, form.format(prompt.answer))
    hostile = [text.format(folder=tmp_path) for text in HOSTILE]
    answers = [rollout(prompt, text) for text in hostile]
    answers += [rollout(prompt, form.format(text)) for text in hostile]
    config = RewardsConfig(
        workers=2,
        timeout_s=2.0,
        deadline_s=300.0,
        memory_gib=2.0,
        batch_size=4,
        reward_on_error=0.0,
        max_errors_in_a_row=8,
    )
    workers = RewardWorkers(task, LetterChat(), config)
    try:
        rewards = asyncio.run(workers.grade([right, *answers, right]))
    finally:
        workers.close()
    assert rewards[0] == rewards[-1] == 1.0
    assert max(rewards[1:-1]) <= 0.05  # some generators pay a little for trying
    assert sorted(tmp_path.iterdir()) == before


def test_the_calculator_adds_and_reads_nothing_else(tmp_path):
    """It answers in the run's own process: its grammar is two numbers and a plus."""
    config = CalculatorConfig(
        name="calculator", levels=("2x1",), train_size=5, eval_size=1, seed=0, max_turns=4
    )
    task = CalculatorTask(config)
    prompt = Prompt(prompt_id="p", messages=(), answer="2")
    for text in HOSTILE:
        assert task.reply(prompt, [text.format(folder=tmp_path)]) == "?"
    assert task.reply(prompt, ["1+1="]) == "2"
    assert not list(tmp_path.iterdir())
