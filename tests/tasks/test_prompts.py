"""Prompts that do not fit are found before anything starts."""

from dataclasses import replace

import numpy as np
import pytest

from isentropic.models.tiny import build_tokenizer
from isentropic.records import Prompt
from isentropic.tasks.chat import Chat
from isentropic.tasks.prompts import check_reading, fitting


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
    images = None
    vocab_size = None

    def prompt_text(self, prompt):
        return prompt.messages[0]["content"]

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
    message = (
        r"no train prompt has at most .*=5 tokens: train/0 \(\d+\)\. Raise rollout\.max_prompt"
    )
    with pytest.raises(ValueError, match=message):
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


def with_template(template, **values):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return Chat(tokenizer, **values)


PROBLEM = Prompt(
    prompt_id="p",
    messages=({"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1"}),
    answer="2",
)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        pytest.param("Hello", r"loses the system message of prompt p", id="swallows everything"),
        pytest.param("Be brief.", r"loses the user message of prompt p", id="swallows the problem"),
        pytest.param(
            "{{ messages[1]['content'] }}",
            r"loses the system message.*task\.system_prompt=null",
            id="swallows the system message",
        ),
        pytest.param("", r"loses the system message", id="empty"),
        pytest.param(
            "{{ raise_exception('System role not supported') }}",
            r"refuses messages of the roles system, user.*System role not supported.*"
            r"task\.system_prompt=null",
            id="raises",
        ),
        pytest.param("{{ nosuch.x.y }}", r"refuses messages.*UndefinedError", id="undefined name"),
        pytest.param("{% for m in %}", r"refuses messages.*TemplateSyntaxError", id="syntax"),
        pytest.param("{{ messages + 1 }}", r"refuses messages.*TypeError", id="type"),
    ],
)
def test_a_template_that_loses_or_refuses_the_prompt(template, message):
    with pytest.raises(ValueError, match=message):
        check_reading(Texts([1]), with_template(template), PROBLEM)


def test_a_template_may_trim_and_move_what_it_is_given():
    chat = with_template("{{ messages[1]['content'] | trim }} ({{ messages[0]['content'] }})")
    check_reading(Texts([1]), chat, PROBLEM)


def test_an_environment_s_reply_is_tried_before_the_start():
    class Talk(Texts):
        max_turns = 2

    first_message_only = with_template("{{ messages[0]['content'] }}")
    with pytest.raises(ValueError, match="the policy's text is missing"):
        check_reading(
            Talk([1]), first_message_only, replace(PROBLEM, messages=PROBLEM.messages[1:])
        )


def test_a_tokenizer_wider_than_the_model():
    chat = Chat(build_tokenizer(), vocab_size=20)
    task = Texts([3])
    with pytest.raises(
        ValueError, match=r"token \d+ \('x'\), but the model has only the tokens 0 to 19"
    ):
        fitting(task, chat, splits=("train",), max_tokens=50, on_long_prompt="refuse")
