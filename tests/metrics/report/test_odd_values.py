"""Values of other types or sizes than a run writes are left out, or shown as the text they are."""

import json

import pytest

from isentropic.metrics.entropy import ENTROPY_EDGES
from isentropic.metrics.report.charts.cause import changes
from isentropic.metrics.report.charts.outcome import histogram
from isentropic.metrics.report.run_data import read_run
from isentropic.metrics.report.settings import group_settings
from isentropic.metrics.report.write import compare_page, run_page

BINS = len(ENTROPY_EDGES) - 1


def write_lines(path, rows, mode="w"):
    with path.open(mode) as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_numbers_whose_sum_is_infinite(make, tmp_path):
    """1e308 + 1e308 is no float: the mean over two seeds would raise."""
    for seed, name in enumerate("ab"):
        folder = make.run(tmp_path / name, steps=1, seed=seed)
        line = {"step": 2, "policy_version": 8, "reward/mean": 1e308}
        write_lines(folder / "metrics.jsonl", [line], "a")
    runs = [read_run(tmp_path / name) for name in "ab"]

    compare_page(group_settings(runs), title="x", out=tmp_path / "report.html").render()
    assert [step for _, step, _ in runs[0].curve("reward/mean")] == [1]


def test_an_alarm(make, tmp_path):
    """Its step is written 2.0; its rule, its message and once its metric are no texts."""
    folder = make.run(tmp_path / "a", steps=9, done=2)
    alarm = {"step": 2.0, "state": "raised", "action": "stop", "rule": [7], "message": {"at": 8}}
    rows = [alarm | {"metric": ["x"]}, alarm | {"metric": "entropy/mean"}]
    write_lines(folder / "alarms.jsonl", rows)
    run = read_run(folder)
    page = run_page(run)

    assert run.status == "stopped by alarm: [7]"
    traces = [trace for figure in page.figures for trace in figure.traces]
    marks = [trace for trace in traces if trace.get("name") == "alarm"]
    assert marks and all({*mark["x"]} == {2} for mark in marks)
    assert all({*mark["text"]} == {"{'at': 8}"} for mark in marks)
    assert "{&#39;at&#39;: 8}" in page.render()


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param([0] * BINS, id="no token"),
        pytest.param([1] * (BINS - 1), id="a bin lacks"),
        pytest.param([1] * (BINS + 1), id="a bin too many"),
        pytest.param([-1] + [2] * (BINS - 1), id="a negative count"),
        pytest.param(["1"] * BINS, id="texts"),
        pytest.param([None] * BINS, id="nulls"),
        pytest.param({"0": 1}, id="an object"),
        pytest.param(3, id="a number"),
    ],
)
def test_a_histogram(tmp_path, counts):
    """Only the step with a count for each bin is drawn."""
    rows = [{"step": 1, "entropy/histogram": counts}]
    write_lines(tmp_path / "metrics.jsonl", rows)
    assert histogram(read_run(tmp_path)) is None

    rows.append({"step": 2, "entropy/histogram": [1, 3] + [0] * (BINS - 2)})
    write_lines(tmp_path / "metrics.jsonl", rows)
    assert histogram(read_run(tmp_path)).traces[0]["z"] == [[0.25], [0.75]]


def test_the_error_of_a_change(tmp_path):
    """A standard error that is a text is drawn as none, beside one that is a number."""
    change = {"entropy/predicted_change": -0.5, "entropy/measured_change": -0.25}
    rows = [
        {"step": step, "entropy/measured_change_se": error} | change
        for step, error in ((1, 0.125), (2, "0.1"), (3, [1]), (4, float("nan")))
    ]
    write_lines(tmp_path / "metrics.jsonl", rows)
    figure = changes(read_run(tmp_path))

    assert figure.traces[0]["error_y"]["array"] == [0.125, 0, 0, 0]


def test_seeds_and_labels(make, tmp_path):
    """Seeds are sorted as numbers before texts; a label that is no text names nothing."""
    for name, seed in (("a", "x"), ("b", 2), ("c", [1]), ("d", 1)):
        folder = make.run(tmp_path / name, steps=1)
        values = (folder / "config.yaml").read_text().replace("seed: 0", f"seed: {seed}")
        (folder / "config.yaml").write_text(values.replace("run:\n", "run:\n  label: [1]\n"))
    (setting,) = group_settings([read_run(tmp_path / name) for name in "abcd"])

    assert [run.setting("seed") for run in setting.runs] == [1, 2, [1], "x"]
    assert setting.label == "4 seeds"
