"""The sorting task: what is right, which demonstrations there are, and who is held out."""

import random

import pytest

from isentropic.tasks.embedded.sorting import SortingConfig, SortingTask

TASK = SortingTask(
    SortingConfig(name="sorting", levels=("3x2", "4x1"), train_size=300, eval_size=60, seed=0)
)


def test_a_prompt_lists_numbers_and_its_answer_sorts_them():
    for index in range(50):
        prompt = TASK.prompt("train", index)
        numbers = list(map(int, prompt.messages[0]["content"].rstrip(">").split(",")))
        assert prompt.answer == ",".join(map(str, sorted(numbers)))
        assert prompt.prompt_id.startswith("sorting/train/")
        assert prompt == TASK.prompt("train", index)


@pytest.mark.parametrize(
    ("change", "reward"),
    [
        (lambda answer: f"#{answer}", 1.0),
        (lambda answer: f"1;2#9#{answer}", 1.0),
        (lambda answer: f"#{answer.replace(',', ';', 1)}", 1.0),
        (lambda answer: f"#{answer.replace(',', ' ')}", 1.0),
        (lambda answer: answer, 0.0),
        (lambda answer: f"#{answer},", 0.0),
        (lambda answer: f"#{answer.replace(',', ',,', 1)}", 0.0),
        (lambda answer: f"#{answer.replace(',', '+', 1)}", 0.0),
        (lambda answer: f"#{answer.rpartition(',')[0]}", 0.0),
        (lambda answer: "#" + ",".join(reversed(answer.split(","))), 0.0),
    ],
    ids=[
        "bare",
        "last",
        "mark",
        "blanks",
        "no #",
        "trailing",
        "two marks",
        "no mark",
        "one short",
        "falling",
    ],
)
def test_every_position_counts(change, reward):
    prompt = TASK.prompt("train", 3)
    assert len(set(prompt.answer.split(","))) > 1
    assert TASK.grade(prompt, [change(prompt.answer)]) == reward


def test_demonstrations_are_right_and_differ():
    prompt, rng = TASK.prompt("train", 0), random.Random(0)
    texts = {TASK.demonstration(prompt, rng, (1.0,))[0] for _ in range(300)}
    assert all(TASK.grade(prompt, [text]) == 1.0 for text in texts)
    assert len(texts) == 3 ** (len(prompt.answer.split(",")) - 1)  # every mark is free


def test_no_question_is_in_both_splits():
    answers = {
        split: {TASK.prompt(split, index).answer for index in range(TASK.size(split))}
        for split in ("train", "eval")
    }
    assert not answers["train"] & answers["eval"]
