"""Prompts that do not fit are found before anything starts."""

from dataclasses import replace

import numpy as np
import pytest

from isentropic.records import Prompt
from isentropic.tasks.prompts import fitting


class Texts:
    isolated, max_turns = False, 1

    def __init__(self, lengths):
        self._lengths = lengths

    def size(self, split):
        return len(self._lengths)

    def prompt(self, split, index):
        message = {"role": "user", "content": "x" * self._lengths[index]}
        return Prompt(prompt_id=f"{split}/{index}", messages=(message,), answer="")


class LetterChat:
    def prompt_ids(self, prompt):
        return np.zeros(len(prompt.messages[0]["content"]), np.int64)


def test_the_long_ones_are_named():
    with pytest.raises(
        ValueError, match=r"2 of 4 train prompts.*max_prompt_tokens=5.*train/1 \(6\), train/3 \(9\)"
    ):
        fitting(
            Texts([5, 6, 1, 9]),
            LetterChat(),
            splits=("train",),
            max_tokens=5,
            on_long_prompt="refuse",
        )


def test_or_left_out_and_counted():
    task, dropped = fitting(
        Texts([5, 6, 1, 9]),
        LetterChat(),
        splits=("train", "eval"),
        max_tokens=5,
        on_long_prompt="drop",
    )
    assert dropped == {"train": 2, "eval": 2}
    assert [task.prompt("train", index).prompt_id for index in range(task.size("train"))] == [
        "train/0",
        "train/2",
    ]


def test_a_task_that_fits_is_itself_and_one_with_nothing_left_is_refused():
    task = Texts([1, 2])
    assert fitting(
        task, LetterChat(), splits=("train",), max_tokens=5, on_long_prompt="refuse"
    ) == (task, {"train": 0})
    with pytest.raises(ValueError, match="no train prompt"):
        fitting(Texts([9]), LetterChat(), splits=("train",), max_tokens=5, on_long_prompt="drop")


def test_images_are_refused_while_models_are_given_text_alone():
    class Figures(Texts):
        def prompt(self, split, index):
            return replace(super().prompt(split, index), media=("figure.png",))

    with pytest.raises(
        ValueError, match=r"train/0 carries an image \(figure\.png\).*task\.image_column=null"
    ):
        fitting(
            Figures([1]), LetterChat(), splits=("train",), max_tokens=5, on_long_prompt="refuse"
        )
