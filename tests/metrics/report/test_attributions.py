"""What jobs/attribute.py found stands in the run's report: sums by class, in one table per attribution."""

import json

import pytest

from isentropic.experiments.attribution.attribute import begin, finish
from isentropic.metrics.report.attributions import CLASSES, attributions
from isentropic.metrics.report.run_data import read_run
from isentropic.metrics.report.write import run_page

SETTINGS = {"run": "a", "steps": [10, 20], "contexts": 0.5, "by": ["side"], "exact": True}
REST = {"measured": -0.003, "momentum": 0.0005, "decay": -0.0002, "residual": 0.0001}
SIDES = {"low": -0.004, "high": 0.001, "other": -0.0004}


def attribute(run, name, sums):
    out = run / "attribution" / name
    begin(out, SETTINGS)
    finish(out, {"sum": {f"ledger/{key}": value for key, value in sums.items()}})


def texts(block):
    return [[cell.text for cell in row] for row in block.rows]


def test_sums_by_class(tmp_path):
    attribute(tmp_path, "clip", REST | {f"by/side/{side}": nats for side, nats in SIDES.items()})

    [(title, (table, note))] = attributions(tmp_path)

    assert title == "Attribution clip"
    assert table.head[-1] == "by their gradient in each update"
    assert texts(table) == [
        ["side", "low", "-0.004000"],
        ["side", "high", "+0.001000"],
        ["side", "other", "-0.000400"],
        ["", "measured", "-0.003000"],
        ["", "momentum", "+0.000500"],
        ["", "weight decay", "-0.000200"],
        ["", "residual", "+0.000100"],
    ]
    assert "steps [10, 20]" in note.text and "a share of 0.5" in note.text
    column = [float(cells[-1]) for cells in texts(table)]
    assert sum(column) - REST["measured"] == pytest.approx(REST["measured"])  # as the note says


def test_the_momentum_of_each_class_is_a_second_column(tmp_path):
    own = {"exact/side/low": -0.005, "exact/side/high": 0.002, "exact/side/other": 0.0}
    sums = REST | {f"by/side/{side}": nats for side, nats in SIDES.items()} | own
    attribute(tmp_path, "exact", sums | {"exact/before": 0.0001})

    [(_, (table, _))] = attributions(tmp_path)

    assert table.head[-1] == "with the momentum that is theirs"
    assert texts(table)[0] == ["side", "low", "-0.004000", "-0.005000"]
    assert ["", "momentum", "+0.000500", ""] in texts(table)
    assert ["", "momentum from before", "", "+0.000100"] in texts(table)
    column = [float(cells[-1]) for cells in texts(table) if cells[-1]]
    assert sum(column) - REST["measured"] == pytest.approx(REST["measured"])


def test_of_many_classes_the_largest_are_shown_and_the_others_summed(tmp_path):
    prompts = {f"by/prompt/draw_{draw}": 0.001 * draw for draw in range(20)}
    attribute(tmp_path, "prompts", REST | prompts)

    [(_, (table, _))] = attributions(tmp_path)

    shown = [cells for cells in texts(table) if cells[0] == "prompt"]
    assert [cells[1] for cells in shown[:-1]] == [f"draw_{draw}" for draw in range(8, 20)]
    assert shown[-1] == ["prompt", f"{20 - CLASSES} smaller ones", "+0.028000"]


def test_the_report_has_a_section_for_each(make, tmp_path):
    folder = make.run(tmp_path / "a", steps=3)
    attribute(folder, "clip", REST)
    attribute(folder, make.nasty.replace("/", "|"), REST)
    begin(folder / "attribution" / "stopped", SETTINGS)
    (folder / "attribution" / "torn").mkdir()
    (folder / "attribution" / "torn" / "summary.json").write_text("{")

    html = run_page(read_run(folder)).render()

    assert html.count("Attribution clip</h2>") == 1
    assert "has not ended. Run it again" in html
    assert "torn/summary.json cannot be read" in html
    assert "<img" not in html and "&lt;img src=x" in html


@pytest.mark.parametrize("summary", ["[]", "3", '{"sum": 3}', "{}", '{"sum": {"ledger/by/": "x"}}'])
def test_odd_summaries_are_shown_or_said(tmp_path, summary):
    out = tmp_path / "attribution" / "odd"
    out.mkdir(parents=True)
    (out / "summary.json").write_text(summary)

    [(title, blocks)] = attributions(tmp_path)

    assert title == "Attribution odd" and blocks


def test_a_run_without_any_has_none(tmp_path):
    assert list(attributions(tmp_path)) == []
    (tmp_path / "attribution").write_text(json.dumps({}))  # a file of that name
    assert list(attributions(tmp_path)) == []
