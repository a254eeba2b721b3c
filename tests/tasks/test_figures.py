"""Drawings are made only from their index, and an answer is the first number."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from isentropic.folders import CACHE, cache_folder
from isentropic.records import Prompt
from isentropic.tasks.figures import FiguresConfig, FiguresTask

VALUES = {
    "name": "figures",
    "folder": "a",
    "pixels": 120,
    "max_count": 4,
    "others": 3,
    "train_size": 40,
    "eval_size": 4,
    "seed": 0,
}


@pytest.fixture
def config(tmp_path):
    return FiguresConfig(**VALUES | {"folder": str(tmp_path / "a")})


def blobs(path):
    """Counts connected regions that are not white: one per figure, as cells keep them apart."""
    ink = np.asarray(Image.open(path).convert("L")) < 250
    count = 0
    while ink.any():
        count += 1
        front = [tuple(np.argwhere(ink)[0])]
        ink[front[0]] = False
        while front:
            row, column = front.pop()
            for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                near = (row + down, column + right)
                inside = all(0 <= at < size for at, size in zip(near, ink.shape, strict=True))
                if inside and ink[near]:
                    ink[near] = False
                    front.append(near)
    return count


def test_a_drawing_without_other_figures_has_as_many_as_its_answer_says(config):
    task = FiguresTask(replace(config, others=0))
    prompts = [task.prompt("train", index) for index in range(12)]
    counts = [str(blobs(prompt.media[0])) for prompt in prompts]
    assert counts == [prompt.answer for prompt in prompts]
    assert len({prompt.answer for prompt in prompts}) > 1


def test_drawings_do_not_depend_on_when_and_where_they_are_made(config, tmp_path):
    one, other = FiguresTask(config), FiguresTask(replace(config, folder=str(tmp_path / "b")))
    backwards = [other.prompt("train", index) for index in reversed(range(5))][::-1]
    for index, prompt in enumerate(backwards):
        mine = one.prompt("train", index)
        assert replace(mine, media=prompt.media) == prompt
        assert Path(mine.media[0]).read_bytes() == Path(prompt.media[0]).read_bytes()
    assert one.prompt("eval", 0) != one.prompt("train", 0)


def test_a_drawing_is_made_once(config):
    task = FiguresTask(config)
    path = Path(task.prompt("train", 0).media[0])
    before = path.stat().st_mtime_ns
    task.prompt("train", 0)
    assert path.stat().st_mtime_ns == before
    assert [file.name for file in path.parent.iterdir()] == ["train-0.png"]


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("3", 1), ("there are 3.", 1), ("**3**", 1), ("- 3, of 5 in all", 1), ("answer-3", 1),
        ("33", 0), ("2 or 3", 0), ("three", 0), ("-3", 0), ("\N{MINUS SIGN}3", 0), (".3", 0),
    ],
)  # fmt: skip
def test_grade(config, text, reward):
    prompt = Prompt(prompt_id="p", messages=(), answer="3")
    assert FiguresTask(config).grade(prompt, [text]) == reward


@given(st.integers(0, 99), st.integers(0, 99), st.sampled_from(["/", " / ", *".,:^-\N{EN DASH}"]))
def test_a_part_of_a_number_is_no_answer(first, second, joint):
    prompt = Prompt(prompt_id="p", messages=(), answer=str(first))
    task = FiguresTask(FiguresConfig(**VALUES))
    assert task.grade(prompt, [f"{first} of {second}"]) == 1
    assert task.grade(prompt, [f"It is {first}{joint}{second}."]) == 0
    assert task.grade(prompt, [f"-{first}"]) == 0


def test_more_figures_than_cells_are_refused(config):
    with pytest.raises(ValueError, match=r"at most 9, the cells of a drawing; got 7 \+ 3"):
        replace(config, max_count=7)


@pytest.mark.parametrize("named", [True, False], ids=["ISENTROPIC_CACHE", "the project's"])
def test_the_drawings_lie_in_the_cache_from_everywhere(config, named, monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE, str(tmp_path / "cache") if named else " ")
    monkeypatch.chdir(tmp_path)
    assert (
        FiguresTask(replace(config, folder="cache:figures"))._folder == cache_folder() / "figures"
    )
    assert cache_folder().is_relative_to(tmp_path) == named
