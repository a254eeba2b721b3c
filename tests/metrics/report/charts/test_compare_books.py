"""The books side by side: sums over the steps that all measured, errors over seeds."""

import json

import pytest

from isentropic.metrics.report.charts.compare_books import compare_books
from isentropic.metrics.report.run_data import read_run
from isentropic.metrics.report.settings import Setting


def run_of(folder, pulls):
    """{step: what NA&LP does in a measured step}"""
    folder.mkdir()
    rows = [
        {"step": step, "ledger/measured": pull / 10, "ledger/impulse/na_lp": pull}
        for step, pull in pulls.items()
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_run(folder, ended=True)


def test_sums_and_errors(tmp_path):
    """Step 3 is measured by one run only. Seeds: -0.2 - 0.4 and -0.4 - 0.4; s.e. of -0.7 is 0.1."""
    first = run_of(tmp_path / "a", {1: -0.2, 2: -0.4, 3: -9.0})
    second = run_of(tmp_path / "b", {1: -0.4, 2: -0.4})
    third = run_of(tmp_path / "c", {1: -0.1, 2: -0.1})
    settings = [
        Setting(label="x", values={}, runs=(first, second)),
        Setting(label="y", values={}, runs=(third,)),
    ]
    whole, exact = compare_books(settings)
    x, y = whole.traces

    assert (x["x"], x["y"], y["y"]) == (["NA&LP"], [pytest.approx(-0.7)], [pytest.approx(-0.2)])
    assert x["error_y"]["array"] == [pytest.approx(0.1)] and y["error_y"]["array"] == [0]
    assert "the 2 steps that every run measured" in whole.note
    assert exact.traces[0]["x"] == ["measured"]


def test_without_a_ledger_it_is_the_drift(make, tmp_path):
    runs = [
        read_run(make.run(tmp_path / name, steps=3, beta1=b)) for name, b in (("a", 0), ("b", 1))
    ]
    (figure,) = compare_books([Setting(label=run.name, values={}, runs=(run,)) for run in runs])

    assert figure.title == "Entropy drift by class" and "One run each: no error" in figure.note
    assert figure.traces[0]["x"] == ["PA&HP", "PA&LP", "NA&HP", "NA&LP", "sum"]
