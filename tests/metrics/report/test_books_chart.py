"""The stacked books of measured steps; runs without any have no such chart."""

import json

import pytest

from isentropic.metrics.report.charts.books import cumulated, per_step
from isentropic.metrics.report.run_data import read_run


def run_of(folder, lines):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yaml").write_text("run: {name: x, steps: 4}\n")
    return read_run(folder, ended=True)


def line(step, **ledger):
    return {"step": step, "policy_version": step} | {f"ledger/{k}": v for k, v in ledger.items()}


def test_bars_and_the_measured_change(tmp_path):
    lines = [
        {"step": 1, "policy_version": 1, "entropy/mean": 0.4},
        line(2, measured=-0.01, pa_hp=-0.004, na_lp=-0.003, momentum=-0.0031, decay=0.0),
        line(4, measured=0.002, pa_hp=-0.001, na_lp=0.0, momentum=0.003, decay=0.0, explained=0.99),
    ]
    figure = per_step(run_of(tmp_path, lines))
    bars = {trace["name"]: trace for trace in figure.traces}

    assert list(bars) == ["PA&HP", "NA&LP", "momentum", "measured"]  # decay was 0 throughout
    assert bars["PA&HP"]["x"] == [2, 4] and bars["PA&HP"]["y"] == [-0.004, -0.001]
    assert bars["measured"]["y"] == [-0.01, 0.002]
    assert "99.000% of the changes" in figure.note and figure.layout["barmode"] == "relative"


def test_a_run_without_books_has_no_chart(tmp_path):
    assert (
        per_step(run_of(tmp_path, [{"step": 1, "policy_version": 1, "entropy/mean": 0.4}])) is None
    )


def test_a_measured_step_stands_for_those_before_it(tmp_path):
    """Steps 2 and 4 of 4: each counts twice, and the curve starts at 0 before step 1's updates."""
    lines = [
        {"step": 1, "policy_version": 1, "entropy/mean": 0.4},
        line(2, measured=-0.01, pa_hp=-0.004, momentum=-0.006) | {"entropy/mean": 0.39},
        line(4, measured=0.002, pa_hp=-0.001, momentum=0.003) | {"entropy/mean": 0.37},
    ]
    traces = {trace["name"]: trace for trace in cumulated(run_of(tmp_path, lines)).traces}

    assert traces["PA&HP"]["y"] == [-0.008, -0.01]
    assert traces["momentum"]["y"] == [-0.012, -0.006]
    assert traces["measured, added up"]["y"] == pytest.approx([-0.02, -0.016])
    curve = traces["entropy of the policy, since step 1"]
    assert curve["x"] == [0, 1, 3] and curve["y"] == pytest.approx([0, -0.01, -0.03])
