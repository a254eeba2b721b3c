"""What is on disk after a crash, a resume, and numbers that JSON does not know."""

import json

import numpy as np
import pytest

from isentropic.metrics.sinks.jsonl import JsonlFile, JsonlSink, read_lines


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_lines_are_strict_json_and_there_at_once(tmp_path):
    sink = JsonlSink(tmp_path)
    numbers = {"half": np.float32(0.5), "nan": float("nan"), "inf": np.inf}
    sink.log(0, numbers | {"list": np.arange(2), "no": None})
    row = strict((tmp_path / "metrics.jsonl").read_text())  # not closed: written all the same
    expected = {"half": 0.5, "nan": None, "inf": None, "list": [0, 1], "no": None}
    assert row == {"step": 0} | expected
    sink.close()


def test_updates_carry_their_index(tmp_path):
    sink = JsonlSink(tmp_path)
    sink.log_updates(3, [{"clip/frac": 0.0}, {"clip/frac": 0.25}])
    rows, torn = read_lines(tmp_path / "updates.jsonl")
    assert rows == [
        {"step": 3, "update": 0, "clip/frac": 0.0},
        {"step": 3, "update": 1, "clip/frac": 0.25},
    ]
    assert not torn


def test_floats_come_back_with_the_same_bits(tmp_path):
    values = np.random.default_rng(0).normal(size=100).tolist()
    JsonlSink(tmp_path).log(1, {"values": values})
    assert read_lines(tmp_path / "metrics.jsonl")[0][0]["values"] == values


@pytest.mark.parametrize("tail", ["", '{"step": 3, "rew', '{"step": 3, "rew\n', "\0\0\0"])
def test_resume_drops_later_steps_and_a_torn_last_line(tmp_path, tail):
    sink = JsonlSink(tmp_path)
    for step in range(3):
        sink.log(step, {"reward/mean": step / 2})
        sink.log_updates(step, [{}, {}])
    sink.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(tail)
    again = JsonlSink(tmp_path, resume_step=1)
    again.log(2, {"reward/mean": 9.0})
    again.close()
    assert [strict(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 0, "reward/mean": 0.0},
        {"step": 1, "reward/mean": 0.5},
        {"step": 2, "reward/mean": 9.0},
    ]
    assert [row["step"] for row in read_lines(tmp_path / "updates.jsonl")[0]] == [0, 0, 1, 1]


def test_resume_without_a_file_starts_one(tmp_path):
    JsonlSink(tmp_path, resume_step=5).log(6, {})
    assert read_lines(tmp_path / "metrics.jsonl")[0] == [{"step": 6}]


def test_damage_inside_the_file_is_not_repaired(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\nrubbish\n{"step": 1}\n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        JsonlFile(path, resume_step=1)
    assert "rubbish" in path.read_text()


def test_a_new_run_does_not_overwrite_an_old_one(tmp_path):
    JsonlSink(tmp_path).close()
    with pytest.raises(FileExistsError):
        JsonlSink(tmp_path)
