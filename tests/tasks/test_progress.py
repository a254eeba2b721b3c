"""What takes long says so, with the time left or the time passed; what is quick is silent."""

import json

from isentropic.tasks import progress
from isentropic.tasks.data.rows import as_answer, read_rows
from isentropic.tasks.progress import announced


def test_what_takes_long_is_announced_with_the_time_left():
    now, lines = [0.0], []
    for _ in announced(range(100), "checking", lines.append, clock=lambda: now[0]):
        now[0] += 0.5
    assert lines == [
        "checking: 6 of 100, about 47 s left",
        "checking: 26 of 100, about 37 s left",
        "checking: 46 of 100, about 27 s left",
        "checking: 66 of 100, about 17 s left",
        "checking: 86 of 100, about 7 s left",
    ]


def test_what_is_quick_is_not():
    lines = []
    assert list(announced(range(100), "checking", lines.append)) == list(range(100))
    assert lines == []


def test_without_a_known_number_the_time_passed_is_said():
    now, lines = [0.0], []
    for _ in announced(iter(range(1500)), "reading", lines.append, clock=lambda: now[0]):
        now[0] += 0.5
    assert lines[:2] == ["reading: 6 in 3 s", "reading: 26 in 13 s"]
    assert lines[-1] == "reading: 1,486 in 12 min"


def test_a_big_data_file_is_no_silence(tmp_path, monkeypatch):
    file = tmp_path / "big.jsonl"
    file.write_text("\n".join(json.dumps({"answer": number}) for number in range(40)))
    now = [0.0]

    def slow(value):
        now[0] += 0.5
        return as_answer(value)

    monkeypatch.setattr(progress.announced, "__defaults__", (lambda: now[0],))
    lines = []
    rows, _ = read_rows(
        str(file),
        split="train",
        columns={"answer": slow},
        limit=None,
        on_bad_row="refuse",
        say=lines.append,
    )
    assert len(rows) == 40
    assert lines == [f"reading rows of {file}: 6 in 3 s", f"reading rows of {file}: 26 in 13 s"]
