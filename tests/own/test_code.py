"""A user's file travels as text: what fails in it is named by file and line, on any machine."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import isentropic
from isentropic.own.code import OwnCode, named, place

PLATFORM = Path(isentropic.__file__).parents[1]


def written(folder, text, name="mine.py"):
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_name_of_the_file_is_got_and_a_wrong_one_gets_the_nearest(tmp_path):
    path = written(tmp_path, "import re\ndef grade(prompt, response, row):\n    return 1\n")
    code = OwnCode.read("task.reward.file", path)

    assert code.get("task.reward.function", "grade")("", "", {}) == 1
    assert code.line(code.get("f", "grade")) == f"{path}:2"
    with pytest.raises(ValueError, match=r"no such name. Did you mean 'grade'\? It has: grade\."):
        code.get("task.reward.function", "grad")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("x = 1\ndef f(:\n", ":2: SyntaxError", id="no Python"),
        pytest.param("\nimport helper_of_mine\n", ":2: ModuleNotFoundError.*travels alone", id="a"),
        pytest.param("1\n2\nraise SystemExit(3)\n", ":3: SystemExit: 3", id="ends the process"),
        pytest.param("def f():\n    1 / 0\nf()\n", ":2: ZeroDivisionError", id="a fault"),
    ],
)
def test_a_file_that_fails_is_named_with_the_line(tmp_path, text, says):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=f"^{path}{says}"):
        OwnCode.read("task.reward.file", path).get("task.reward.function", "f")


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"objective.file=.*absent.py cannot be read as Python: No"
    ):
        OwnCode.read("objective.file", str(tmp_path / "absent.py"))
    (tmp_path / "mine.py").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"cannot be read as Python: .*\(save it as UTF-8\)"):
        OwnCode.read("objective.file", str(tmp_path / "mine.py"))


@pytest.mark.parametrize(
    "data",
    [b"\xef\xbb\xbfx = '\xc3\xa9'\n", b"x = '\xc3\xa9'\r\n", b"x = '\xc3\xa9'\r"],
    ids=["a mark in front", "lines of Windows", "lines of old Macs"],
)
def test_a_file_of_another_editor_is_the_same_text_as_its_copy(tmp_path, data):
    """Else a resume would compare it with its own copy in the run folder, and refuse it."""
    (tmp_path / "mine.py").write_bytes(data)
    code = OwnCode.read("task.file", str(tmp_path / "mine.py"))
    (tmp_path / "copy.py").write_text(code.text, encoding="utf-8")

    assert code.get("x", "x") == "é"
    assert (tmp_path / "copy.py").read_text(encoding="utf-8") == code.text == "x = 'é'\n"


def test_the_place_is_the_innermost_line_of_the_user_s_file(tmp_path):
    path = written(tmp_path, "import json\ndef f(text):\n    return json.loads(text)\n")
    function = OwnCode.read("file", path).get("function", "f")
    with pytest.raises(ValueError) as caught:
        function("no JSON")
    assert place(caught.value) == f"{path}:3"
    assert named(caught.value).startswith("JSONDecodeError: Expecting value")
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    assert place(caught.value) == "", "it arose in no file of a user"


def test_a_pickle_brings_the_file_to_a_process_that_has_it_not(tmp_path):
    """Objects of the file's own classes too: the code, in front of them, loads their module."""
    path = written(tmp_path, "class Task:\n    def grade(self):\n        return self.paid\n")
    code = OwnCode.read("task.file", path)
    task = code.get("task.class_name", "Task")()
    task.paid = 7
    data = pickle.dumps({"code": code, "task": task})
    Path(path).unlink()

    script = "import pickle, sys; print(pickle.load(sys.stdin.buffer)['task'].grade())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=data,
        env={"PYTHONPATH": str(PLATFORM)},
        capture_output=True,
    )
    assert done.stdout == b"7\n", done.stderr.decode()
