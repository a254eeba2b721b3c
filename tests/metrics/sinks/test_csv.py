"""metrics.csv: a row per step, columns as they come, one row for a step that is trained again."""

import csv
import json

import pytest

from isentropic.metrics.sinks.csv import CsvSink


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_and_late_columns(tmp_path):
    sink = CsvSink(tmp_path, print)
    sink.log(0, {"entropy/mean": 1.5, "entropy/histogram": [1, 2], "kl/k1": None})
    sink.log(1, {"entropy/mean": 1.25})
    sink.log(2, {"entropy/mean": 1.0, "ledger/now": -0.5})

    assert rows(tmp_path) == [
        {"step": "0", "entropy/mean": "1.5", "ledger/now": ""},
        {"step": "1", "entropy/mean": "1.25", "ledger/now": ""},
        {"step": "2", "entropy/mean": "1.0", "ledger/now": "-0.5"},
    ]


def record(folder, *steps):
    lines = [
        json.dumps({"step": step, "loss": float(step), "entropy/histogram": [1]}) for step in steps
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_a_resumed_run_replaces_the_steps_that_it_trains_again(tmp_path):
    first = CsvSink(tmp_path, print)
    for step in range(4):
        first.log(step, {"loss": float(step)})
    record(tmp_path, 0, 1, 2, 3)
    again = CsvSink(tmp_path, print)
    again.log(2, {"loss": 20.0})
    again.log(3, {"loss": 30.0})

    assert [row["loss"] for row in rows(tmp_path)] == ["0.0", "1.0", "20.0", "30.0"]


def test_a_file_that_cannot_be_written_is_reported_once(tmp_path):
    (tmp_path / "metrics.csv").mkdir()
    warnings = []
    sink = CsvSink(tmp_path, warnings.append)
    for step in range(3):
        sink.log(step, {"loss": 1.0})

    assert len(warnings) == 1 and "metrics.csv cannot be written" in warnings[0]


@pytest.mark.parametrize("found", [None, "step,loss\n0,0.0\n1,1.", "step,loss\n0,0.0\n"])
def test_what_the_table_lacks_comes_back_on_a_resume(tmp_path, found):
    """Torn by a full disk, or not asked for before: it is what metrics.jsonl has."""
    record(tmp_path, 0, 1, 2)
    if found is not None:
        (tmp_path / "metrics.csv").write_text(found)
    CsvSink(tmp_path, print).log(3, {"loss": 3.0})
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [
        ("0", "0.0"), ("1", "1.0"), ("2", "2.0"), ("3", "3.0"),
    ]  # fmt: skip
