"""The calculator: what it answers, when an episode ends, and demonstrations that are right."""

import random

import pytest

from isentropic.records import Prompt
from isentropic.tasks.calculator import CalculatorConfig, CalculatorTask

CONFIG = CalculatorConfig(
    name="calculator", levels=("2x1", "3x2"), train_size=200, eval_size=50, seed=0, max_turns=4
)
PROMPT = Prompt(prompt_id="p", messages=({"role": "user", "content": "47+25+8="},), answer="80")


@pytest.mark.parametrize(
    ("turn", "reply"),
    [
        ("47+25=", "72"),
        (" 72+8 ", "80"),
        ("47+25+8=", "?"),
        ("47-25=", "?"),
        ("", "?"),
        ("1+1=#", None),
        ("#80", None),
        ("9" * 13 + "+1=", "?"),
    ],
)
def test_reply(turn, reply):
    assert CalculatorTask(CONFIG).reply(PROMPT, ["1+1=", turn]) == reply


def test_the_last_turn_is_graded():
    task = CalculatorTask(CONFIG)
    assert task.grade(PROMPT, ["47+25=", "72+8=", "#80"]) == 1.0
    assert task.grade(PROMPT, ["#80"]) == 1.0
    assert task.grade(PROMPT, ["47+25=", "#72"]) == 0.0
    assert task.grade(PROMPT, ["47+25=", "72+8="]) == 0.0  # never answered


@pytest.mark.parametrize("style_weights", [(1, 0), (0, 1)], ids=CalculatorTask.styles)
def test_demonstrations_are_right_and_the_tool_follows_them(style_weights):
    task = CalculatorTask(CONFIG)
    for index in range(50):
        prompt = task.prompt("train", index)
        assert prompt.prompt_id.startswith("calculator/train/")
        turns = task.demonstration(prompt, random.Random(index), style_weights)
        replies = [task.reply(prompt, turns[: count + 1]) for count in range(len(turns))]
        assert task.grade(prompt, turns) == 1.0
        assert replies[-1] is None and None not in replies[:-1] and "?" not in replies
        if style_weights[0]:
            assert (
                len(turns) == prompt.messages[0]["content"].count("+") + 1
                and replies[-2] == prompt.answer
            )


def test_one_turn_is_another_task():
    with pytest.raises(ValueError, match=r"task\.max_turns must be >= 2, got 1"):
        CalculatorConfig(
            name="calculator", levels=("2x1",), train_size=1, eval_size=1, seed=0, max_turns=1
        )
