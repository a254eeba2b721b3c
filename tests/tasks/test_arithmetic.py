"""The embedded task: sums, their demonstrations, and what is held out."""

import random
from dataclasses import replace

import pytest

from isentropic.records import Prompt
from isentropic.tasks.arithmetic import ArithmeticConfig, ArithmeticTask, demonstration

CONFIG = ArithmeticConfig(
    name="arithmetic", levels=("2x1", "3x1", "3x2"), train_size=1000, eval_size=200, seed=0
)
SUM = Prompt(prompt_id="p", messages=({"role": "user", "content": "47+25+8="},), answer="80")


def terms_of(prompt):
    return [int(term) for term in prompt.messages[0]["content"].rstrip("=").split("+")]


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        pytest.param("47+25=72;72+8=80#80", 1.0, id="worked out"),
        pytest.param("#80", 1.0, id="only the result"),
        pytest.param("1+1=3#7# 80 ", 1.0, id="only what follows the last mark counts"),
        pytest.param("80", 0.0, id="no mark"),
        pytest.param("47+25=72;72+8=80#8", 0.0, id="cut short"),
        pytest.param("#80#", 0.0, id="nothing after the mark"),
        pytest.param("", 0.0, id="empty"),
    ],
)
def test_grade(response, reward):
    assert ArithmeticTask(CONFIG).grade(SUM, [response]) == reward


def test_prompts_are_right_repeatable_and_cover_the_levels():
    task = ArithmeticTask(CONFIG)
    prompts = [task.prompt("train", index) for index in range(300)]
    assert prompts == [ArithmeticTask(CONFIG).prompt("train", index) for index in range(300)]
    assert all(int(prompt.answer) == sum(terms_of(prompt)) for prompt in prompts)
    assert {prompt.prompt_id.split("/")[2] for prompt in prompts} == set(CONFIG.levels)


def test_no_held_out_question_is_trained_on_in_any_order_of_its_terms():
    task = ArithmeticTask(CONFIG)
    train = {tuple(sorted(terms_of(task.prompt("train", index)))) for index in range(1000)}
    held_out = {tuple(sorted(terms_of(task.prompt("eval", index)))) for index in range(200)}
    assert held_out and not train & held_out


def test_every_demonstration_is_right_and_they_differ():
    texts = {demonstration(SUM, random.Random(seed), (1, 1, 1)) for seed in range(300)}
    assert all(ArithmeticTask(CONFIG).grade(SUM, [text]) == 1.0 for text in texts)
    assert {"#80", "47+25=72;72+8=80#80", "72,80#80"} <= texts
    assert len(texts) > 40  # 6 orders of terms, 4 of the pairs, 3 separators: entropy to lose


@pytest.mark.parametrize("levels", [(), ("3",), ("1x2",), ("3x0",)])
def test_refuses_bad_levels(levels):
    with pytest.raises(ValueError, match="TERMSxDIGITS"):
        replace(CONFIG, levels=levels)


@pytest.mark.parametrize("key", ["train_size", "eval_size"])
@pytest.mark.parametrize("size", [0, 10**8 + 1])
def test_sizes_that_no_run_can_go_through_are_refused(key, size):
    replace(CONFIG, **{key: 10**8})
    with pytest.raises(ValueError, match=rf"task\.{key} must be >= 1 and <= 100000000, got {size}"):
        replace(CONFIG, **{key: size})
