"""Drawings are made from their index alone, and an answer is the first number."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isentropic.records import Prompt
from isentropic.tasks.figures import FiguresConfig, FiguresTask


@pytest.fixture
def config(tmp_path):
    return FiguresConfig(
        name="figures", folder=str(tmp_path / "a"), pixels=120, max_count=4, others=3, train_size=40, eval_size=4,
        seed=0,
    )  # fmt: skip


def blobs(path):
    """Connected regions of a drawing that are not white: one a figure, as cells keep them apart."""
    ink = np.asarray(Image.open(path).convert("L")) < 250
    count = 0
    while ink.any():
        count += 1
        front = [tuple(np.argwhere(ink)[0])]
        ink[front[0]] = False
        while front:
            row, column = front.pop()
            for near in (
                (row + 1, column),
                (row - 1, column),
                (row, column + 1),
                (row, column - 1),
            ):
                if (
                    all(0 <= at < size for at, size in zip(near, ink.shape, strict=True))
                    and ink[near]
                ):
                    ink[near] = False
                    front.append(near)
    return count


def test_a_drawing_has_as_many_figures_as_asked_for_where_there_are_no_others(config):
    task = FiguresTask(replace(config, others=0))
    prompts = [task.prompt("train", index) for index in range(12)]
    assert [str(blobs(prompt.media[0])) for prompt in prompts] == [
        prompt.answer for prompt in prompts
    ]
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
    ("text", "reward"), [("3", 1), ("there are 3.", 1), ("33", 0), ("2 or 3", 0), ("three", 0)]
)
def test_grade(config, text, reward):
    assert (
        FiguresTask(config).grade(Prompt(prompt_id="p", messages=(), answer="3"), [text]) == reward
    )


def test_more_figures_than_cells_are_refused(config):
    with pytest.raises(ValueError, match=r"at most 9, the cells of a drawing; got 7 \+ 3"):
        replace(config, max_count=7)
