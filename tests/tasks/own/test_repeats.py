"""A task whose prompts are others on the next call is refused: no run of it could be resumed."""

import os

import pytest

from isentropic.tasks.own.repeats import check_repeats
from isentropic.tasks.own.task import OwnTask, OwnTaskConfig

TASK = """
import itertools, os, random
from isentropic.records import Prompt

class Mine:
    def __init__(self):
        print("reading")
        {init}

    def size(self, split):
        return {size}

    def prompt(self, split, index):
        text = str({text})
        message = {{"role": "user", "content": text}}
        return Prompt(prompt_id=f"{{split}}/{{index}}", messages=(message,), answer="1")

    def grade(self, prompt, turns):
        return 1.0
"""
COUNT = "self.count = itertools.count()"


def check(folder, *, init="pass", size="3", text="index"):
    (folder / "mine.py").write_text(TASK.format(init=init, size=size, text=text))
    config = OwnTaskConfig(
        name="own", file=str(folder / "mine.py"), class_name="Mine", settings={},
        on_long_prompt="refuse",
    )  # fmt: skip
    check_repeats(config, OwnTask(config))


def test_a_seeded_task_that_prints_is_accepted(tmp_path):
    check(tmp_path, text="random.Random(f'{split}/{index}').random()")


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        pytest.param(
            {"text": "random.random()"},
            r"mine\.py: Mine\.prompt\('train', 0\) differs from call to call: messages was .*, in "
            r"another process it is .*depend on split and index alone",
            id="random",
        ),
        pytest.param({"text": "hash(split)"}, r"Mine\.prompt\('train', 0\) differs", id="hash"),
        pytest.param(
            {"text": "next(self.count)", "init": COUNT},
            r"Mine\.prompt\('train', 0\) differs .*\"0\".*\"5\"",
            id="by the order of the calls",
        ),
        pytest.param({"size": "os.getpid()"}, r"Mine\.size\('train'\) is \d+, and in", id="size"),
        pytest.param(
            {"init": f"assert os.getpid() == {os.getpid()}"},
            r"Mine works here and fails in another process \(1\): .*AssertionError",
            id="fails elsewhere",
        ),
    ],
)
def test_what_differs_is_refused_by_name(tmp_path, parts, says):
    with pytest.raises(ValueError, match=says):
        check(tmp_path, **parts)
