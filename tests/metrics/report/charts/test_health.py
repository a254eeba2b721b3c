"""Charts of a run's soundness."""

import pytest

from isentropic.metrics.report.charts.run import run_charts
from isentropic.metrics.report.run_data import read_run
from isentropic.metrics.sinks.jsonl import JsonlSink

TITLE = "Carried to the next step"


@pytest.fixture
def figures(tmp_path):
    """Draws the charts of a run with these lines of metrics."""

    def drawn(*rows):
        sink = JsonlSink(tmp_path)
        for step, row in enumerate(rows, start=1):
            sink.log(step, {"policy_version": step - 1, "kl/k3": 0.1} | row)
        sink.close()
        sections = run_charts(read_run(tmp_path)).values()
        return {figure.title: figure for section in sections for figure in section}

    return drawn


def test_segments_have_a_panel(figures):
    rows = [
        {"segments/carried_prompts": carried, "segments/lag_mean": lag, "segments/lag_max": 2 * lag}
        | {"segments/carried_finished": 0}
        for carried, lag in ((8, 0.0), (7, 0.5), (9, 1.0))
    ]
    figure = figures(*rows)[TITLE]

    drawn = {trace["name"]: (trace["y"], trace.get("yaxis", "y")) for trace in figure.traces}
    assert drawn == {
        "carried": ([8, 7, 9], "y"),
        "lag, mean (right)": ([0, 0.5, 1], "y2"),
        "lag, max (right)": ([0, 1, 2], "y2"),
    }
    assert figure.layout["yaxis"]["title"]["text"] == "prompts"
    assert figure.layout["yaxis2"]["title"]["text"] == "steps"


def test_a_run_without_segments_has_no_such_panel(figures):
    assert TITLE not in figures({}, {})
