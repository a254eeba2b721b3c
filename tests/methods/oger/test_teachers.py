"""Teacher files, the embedded solver, and what becomes of them for a prompt."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isentropic.methods.oger.offline_set import OfflineSet
from isentropic.methods.oger.teachers import (
    ArithmeticTeachers,
    TeacherResponse,
    TeacherTable,
    load_source,
    read_teachers,
    write_teachers,
)
from isentropic.tasks.arithmetic import ArithmeticConfig, ArithmeticTask

TASK = ArithmeticTask(
    ArithmeticConfig(name="arithmetic", levels=("2x1", "3x2"), train_size=50, eval_size=10, seed=0)
)
ROWS = [
    TeacherResponse(prompt_id="p", teacher="a", text="1", reward=1.0),
    TeacherResponse(prompt_id="p", teacher="b", text="22", reward=0.0),
    TeacherResponse(prompt_id="p", teacher="b", text="333"),
    TeacherResponse(prompt_id="q", teacher="a", text="4", reward=1.0),
]


class Chat:
    eos_token_id = 0

    class tokenizer:
        @staticmethod
        def encode(text, add_special_tokens):
            return [int(digit) for digit in text]


class ThreesAreRight:
    isolated, max_turns = False, 1

    def grade(self, prompt, turns):
        return float(set(turns[0]) == {"3"})


def offline(rows=ROWS, task=None, require_correct=True, limit=8, window=64) -> OfflineSet:
    return OfflineSet(
        TeacherTable(rows), task=task or ThreesAreRight(), chat=Chat(), require_correct=require_correct,
        max_response_tokens=limit, window=window, seed=0,
    )  # fmt: skip


def texts(offline_set, prompt):
    return [row.text for row in offline_set.responses(prompt)]


def test_the_task_says_what_right_pays(new, tmp_path):
    """Right pays 5: a reward of 1 is partial credit, and a verdict of true is worth 5."""
    path = tmp_path / "teachers.jsonl"
    verdicts = (
        {"reward": 1.0},
        {"reward": 5.0},
        {"verified": True},
        {"verified": False},
        {"reward": None, "verified": True},
        {"reward": float("nan"), "verified": True},
        {"reward": 0.0, "verified": True},
    )
    rows = [
        {"prompt_id": "p", "teacher": "t", "response": str(number)} | verdict
        for number, verdict in enumerate(verdicts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompt = replace(new.prompt, reward_right=5.0)
    kept = offline(read_teachers(path)).responses(prompt)
    assert [(row.text, row.reward) for row in kept] == [(text, 5.0) for text in "1245"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_files_give_back_what_was_written(kind, tmp_path):
    path = tmp_path / f"teachers.{kind}"
    if kind == "jsonl":
        assert write_teachers(path, ROWS) == 4
    else:
        rows = [
            {"prompt_id": r.prompt_id, "teacher": r.teacher, "response": r.text, "reward": r.reward}
            for r in ROWS
        ]
        rows[2]["reward"] = None
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert [repr(row) for row in read_teachers(path)] == [repr(row) for row in ROWS]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no rows"),
        ("{", "row 1 is not JSON"),
        ('{"reward": 1, "reward": 0}', "row 1 has the key 'reward' twice"),
        ('{"prompt_id": "p", "teacher": "a"}', "row 1: response must be text, got None"),
        (
            '{"prompt_id": 3, "teacher": "a", "response": "x"}',
            "row 1: prompt_id must be text, got 3",
        ),
        (
            '{"prompt_id": "p", "teacher": "a", "response": "x", "reward": "yes"}',
            "reward must be a number",
        ),
    ],
)
def test_bad_files_are_refused_with_the_row(content, message, tmp_path):
    path = tmp_path / "teachers.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_teachers(path)


@pytest.mark.parametrize("reward", ["Infinity", "-Infinity", "1e400", "-1e400", "1" * 401, "[1]"])
def test_a_reward_that_is_no_finite_number_is_refused_with_the_row(reward, tmp_path):
    path = tmp_path / "teachers.jsonl"
    good = '{"prompt_id": "p", "teacher": "a", "response": "x", "reward": 1}\n'
    path.write_text(good + good.replace("1}", f"{reward}}}"))
    with pytest.raises(
        ValueError, match=r"teachers\.jsonl, row 2: reward must be a number"
    ) as error:
        read_teachers(path)
    assert len(str(error.value)) < len(str(path)) + 150


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param(b'{"prompt_id": "\xff"}', "is not UTF-8", id="not UTF-8"),
        pytest.param("é".encode("utf-16"), "is not UTF-8", id="UTF-16"),
        pytest.param(b"[" * 100_000, "is nested too deep", id="deep"),
        pytest.param(b"[" * 500 + b"]" * 500, "must be an object", id="deep, but readable"),
        pytest.param(b"1" * 5000, "is not JSON", id="more digits than Python converts"),
    ],
)
def test_a_line_that_cannot_be_read_is_refused_with_the_row(line, message, tmp_path):
    path = tmp_path / "teachers.jsonl"
    good = b'{"prompt_id": "p", "teacher": "a", "response": "\xc3\xa9"}\n'
    path.write_bytes(good + line + b"\n" + good)
    with pytest.raises(ValueError, match=rf"teachers\.jsonl, row 2 {message}"):
        read_teachers(path)


def test_parquet_text_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "teachers.parquet"
    text = pa.array([b"\xff"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"prompt_id": text, "teacher": ["a"], "response": ["x"]}), path)
    with pytest.raises(ValueError, match=r"teachers\.parquet is not readable as parquet") as error:
        read_teachers(path)
    assert type(error.value) is ValueError


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match=r"jobs/make_teachers\.py"):
        load_source(str(tmp_path / "none.jsonl"), TASK)


def test_several_files_make_one_set(tmp_path, new):
    paths = []
    for teacher in "ab":
        paths.append(str(tmp_path / f"{teacher}.jsonl"))
        write_teachers(
            tmp_path / f"{teacher}.jsonl", [row for row in ROWS if row.teacher == teacher]
        )
    source = load_source(paths, TASK)
    assert [row.teacher for row in source.responses(new.prompt)] == ["a", "b", "b"]


def test_only_right_and_short_responses_are_used(new):
    assert texts(offline(), new.prompt) == ["1", "333"]  # the third was graded by the task
    assert texts(offline(require_correct=False), new.prompt) == ["1", "22", "333"]
    assert texts(offline(limit=3), new.prompt) == [
        "1"
    ]  # with the end of sequence '333' is 4 tokens
    assert texts(offline(), replace(new.prompt, prompt_id="unknown")) == []


def test_an_isolated_task_does_not_grade_here(new):
    task = ThreesAreRight()
    task.isolated = True
    with pytest.raises(ValueError, match="killable process"):
        offline(task=task).responses(new.prompt)


def test_draws_are_uniform_and_fit_the_window(new):
    rows = [replace(ROWS[0], text=text) for text in ("1", "2", "3")]
    drawn = [offline(rows).draw(new.group([0, 1], draw=draw)).token_ids[2] for draw in range(600)]
    counts = np.bincount(drawn)[1:]
    assert counts.min() > 160  # 200 expected, standard deviation 12
    assert offline(rows, window=3).draw(new.group([0, 1])) is None


def test_embedded_teachers_are_right_differ_in_style_and_repeat():
    source = load_source("embedded", TASK)
    prompts = [TASK.prompt("train", index) for index in range(20)]
    for prompt in prompts:
        rows = source.responses(prompt)
        assert [row.teacher for row in rows] == ["steps", "sums", "direct"]
        assert all(TASK.grade(prompt, [row.text]) == 1.0 for row in rows)
        assert list(rows) == list(ArithmeticTeachers(TASK).responses(prompt))
    assert source.corpus() == ArithmeticTeachers(TASK).corpus()
    assert json.dumps(source.corpus())


def test_embedded_teachers_know_one_task(new):
    class Other:
        def prompt(self, split, index):
            return new.prompt

    with pytest.raises(ValueError, match="only task=arithmetic"):
        load_source("embedded", Other())
