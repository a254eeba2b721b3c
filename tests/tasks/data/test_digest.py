"""One row more, less, other or elsewhere, and the data are other data."""

import json

import pytest

from isentropic.records import Prompt
from isentropic.tasks.data.digest import DataDigest


class Rows:
    def __init__(self, rows):
        self._rows = rows

    def prompt(self, split, index):
        problem, answer = self._rows[index]
        message = {"role": "user", "content": problem}
        return Prompt(prompt_id=f"{split}/{index}", messages=(message,), answer=answer)


ROWS = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]


def digest(rows):
    task = Rows(rows)
    data = DataDigest(task)
    for index in range(len(rows)):
        data.add("train", task.prompt("train", index))
    return data


def test_a_held_out_copy_is_found_whatever_its_blanks_and_capitals():
    task = Rows([("What is x?", "1"), ("\uff37HAT\u00a0is\n x?", "1"), ("What is y?", "1")])
    data = DataDigest(task)
    data.add("train", task.prompt("train", 0))
    for index in (1, 2):
        data.add("eval", task.prompt("eval", index))
    assert data.trained_on() == (1, 2)


@pytest.fixture
def recorded():
    return json.loads(json.dumps(digest(ROWS).values()))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        pytest.param(ROWS, [], id="the same"),
        pytest.param(
            [*ROWS[:2], ("c", "5"), ROWS[3]],
            ["4 train prompts, now 4; 1 of the first 4 differ, the first is train/2"],
            id="another answer",
        ),
        pytest.param(
            [ROWS[0], ("B", "2"), *ROWS[2:]],
            ["4 train prompts, now 4; 1 of the first 4 differ, the first is train/1"],
            id="another problem",
        ),
        pytest.param(
            [ROWS[0], *ROWS[2:]],
            ["4 train prompts, now 3; 2 of the first 3 differ, the first is train/1"],
            id="a row dropped",
        ),
        pytest.param(
            ROWS[:3],
            ["4 train prompts, now 3; the first 3 are the same"],
            id="the last row dropped",
        ),
        pytest.param(
            [ROWS[0], ROWS[2], ROWS[1], ROWS[3]],
            ["4 train prompts, now 4; 2 of the first 4 differ, the first is train/1"],
            id="two rows in another order",
        ),
    ],
)
def test_what_changed_is_said(recorded, rows, said):
    assert digest(rows).differences(recorded) == said


def test_an_image_counts_by_its_name_and_size(tmp_path):
    def values(folder, content):
        path = tmp_path / folder / "a.png"
        path.parent.mkdir()
        path.write_bytes(content)
        data = DataDigest(Rows(ROWS))
        data.add("train", Prompt(prompt_id="0", messages=(), answer="", media=(str(path),)))
        return data.values()

    assert values("one", b"12") == values("moved", b"12") != values("edited", b"123")
