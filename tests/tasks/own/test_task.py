"""A task from a user's file: its prompts and grades, in workers too, and its faults by file and line."""

import asyncio
import pickle
from types import SimpleNamespace

import pytest

from isentropic.tasks.grading.rewards import RewardsConfig, RewardWorkers
from isentropic.tasks.own.task import OwnTask, OwnTaskConfig

PARITY = """
from isentropic.records import Prompt

class Parity:
    def __init__(self, size=4):
        self.numbers = size

    def size(self, split):
        return self.numbers if split == "train" else 2

    def prompt(self, split, index):
        number = index if split == "train" else self.numbers + index
        message = {"role": "user", "content": f"Is {number} even?"}
        answer = "no" if number % 2 else "yes"
        return Prompt(prompt_id=f"{split}/{index}", messages=(message,), answer=answer)

    def grade(self, prompt, turns):
        return {"right": turns[-1] == prompt.answer, "loud": turns[-1].isupper()}
"""


def config(folder, text=PARITY, name="Parity", **settings):
    (folder / "mine.py").write_text(text)
    return OwnTaskConfig(
        name="own", file=str(folder / "mine.py"), class_name=name, settings=settings,
        on_long_prompt="refuse",
    )  # fmt: skip


def test_prompts_sizes_and_defaults(tmp_path):
    task = OwnTask(config(tmp_path, size=7))
    assert (task.size("train"), task.size("eval")) == (7, 2)
    assert task.prompt("eval", 1).messages[0]["content"] == "Is 8 even?"
    assert (task.isolated, task.max_turns) == (True, 1), "own code is graded behind the wall"
    assert task.reply(task.prompt("train", 0), ["no"]) is None
    assert task.place == f"{tmp_path}/mine.py:17"


def test_a_worker_grades_what_it_was_sent_as_text(tmp_path):
    task = OwnTask(config(tmp_path))
    (tmp_path / "mine.py").unlink()
    prompt = task.prompt("train", 1)
    workers = RewardWorkers(
        task,
        None,
        RewardsConfig(
            workers=1, timeout_s=20.0, deadline_s=60.0, memory_gib=2.0, batch_size=8,
            reward_on_error=0.0, max_errors_in_a_row=None,
        ),
    )  # fmt: skip
    paid = asyncio.run(workers.check([(prompt, ("no",)), (prompt, ("NO",), True)]))
    workers.close()
    assert [(float(each), each.parts) for each in paid] == [
        (1.0, {"right": 1.0, "loud": 0.0}),
        (1.0, {"right": 0.0, "loud": 1.0}),
    ]
    assert pickle.loads(pickle.dumps(task)).size("train") == 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("return self.numbers if", "return self.number if"), "mine.py:9: Parity.size fails: Attr"),
        (("return Prompt(", "return dict("), r"Parity.prompt\('train', 0\) returned dict"),
        (("def grade", "def score"), "Parity has no grade. A task needs size"),
        (("self.numbers = size", "1 / 0"), r"mine.py:6: Parity\(\*\*task.settings\) fails: Zero"),
        (("class Parity", "class Even"), "has no such name"),
        (("self.numbers if", "0 if"), r"Parity.size\('train'\) returned 0; a task has a whole"),
        (("self.numbers if", "'4' if"), r"Parity.size\('train'\) returned '4'"),
        (("answer=answer", "answer=5"), r"Parity.prompt\('train', 0\) has answer=5: it must be"),
        (("messages=(message,)", "messages='Is it?'"), r"has messages='Is it\?': they must be a"),
        (("messages=(message,)", "messages=()"), r"has messages=\(\): they must be a tuple"),
        (('"role": "user", ', ""), r"has messages=\({'content': .*: they must be a tuple"),
    ],
)
def test_faults_are_named_by_file_and_line(tmp_path, change, says):
    with pytest.raises(ValueError, match=says):
        task = OwnTask(config(tmp_path, PARITY.replace(*change)))
        assert task.size("train")
        task.prompt("train", 0)


WRITES = """
class Changing(Parity):
    runs_code = True
    max_turns = 2

    def grade(self, prompt, turns):
        prompt.messages[-1]["content"] += turns[-1]
        return prompt.messages[-1]["content"] == "Is 0 even?yes"

    def reply(self, prompt, turns):
        prompt.messages[-1]["content"] += "!"
        return prompt.messages[-1]["content"]
"""


def test_a_task_that_writes_into_a_prompt_changes_no_other_answer(tmp_path):
    task = OwnTask(config(tmp_path, PARITY + WRITES, "Changing"))
    prompt = task.prompt("train", 0)
    assert [task.reply(prompt, ["yes"]) for _ in range(2)] == ["Is 0 even?!"] * 2
    assert [task.grade(prompt, ["yes"]) for _ in range(2)] == [1.0, 1.0]
    assert [task.grade_truncated(prompt, ["yes"]) for _ in range(2)] == [1.0, 1.0]
    assert task.runs_code and not OwnTask(config(tmp_path)).runs_code


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (PARITY.replace("return {", "exec(turns[-1])\n        return {"), "it uses exec .line 18"),
        (f"import sympy\n{PARITY}", "it imports sympy .line 1"),
        (f"{PARITY}\n    runs_code = True\n", "it says runs_code = True"),
    ],
)
def test_no_task_that_may_run_an_answer_is_graded_in_the_run_s_own_process(tmp_path, text, says):
    assert OwnTask(config(tmp_path, text)).runs_code
    here = f"{text}\n    isolated = False\n"
    with pytest.raises(ValueError, match=f"has isolated = False, and {says}"):
        OwnTask(config(tmp_path, here))
    if "= True" not in text:
        task = OwnTask(config(tmp_path, f"{here}    runs_code = False\n"))
        assert (task.isolated, task.runs_code) == (False, False)


def test_a_class_of_a_package_is_judged_by_its_module(tmp_path, monkeypatch):
    for name, text, runs in (
        ("plain_words", PARITY, False),
        ("other_words", f"import sympy\n{PARITY}", True),
    ):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        own = __import__(name).Parity
        offered = SimpleNamespace(
            code=None, package="words 1", own_class=own, class_name="Parity", settings={}
        )
        assert OwnTask(offered).runs_code is runs
