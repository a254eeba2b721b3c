"""Differences of branches are paired by branch point."""

import json

import pytest

from isentropic.metrics.report import write_report
from isentropic.metrics.report.branches import Branches, branch_table, forest, point_charts
from isentropic.metrics.report.settings import mean_of


@pytest.fixture
def folder(tmp_path):
    """Three points far apart; beta1=1 lowers the entropy by 0.1, 0.2 and 0.3: mean -0.2, s.e. 0.1 / sqrt 3."""
    rows = []
    for step, entropy, less in ((10, 1.5, 0.1), (20, 1.0, 0.2), (30, 0.5, 0.3)):
        rows.append({"step": step, "setting": "beta1=0", "entropy": entropy})
        rows.append({"step": step, "setting": "beta1=1", "entropy": entropy - less})
    (tmp_path / "branches.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_paired_differences(folder):
    branches = Branches(folder)
    mean = mean_of(list(branches.differences("beta1=1", "entropy").values()))

    assert (branches.num_points, branches.settings) == (3, ["beta1=0", "beta1=1"])
    assert mean.value == pytest.approx(-0.2)
    assert mean.error == pytest.approx(0.1 / 3**0.5)
    (trace,) = forest(branches).traces
    assert (trace["y"], trace["x"]) == (
        ["entropy (nats per token)"],
        [pytest.approx(-0.2 / mean.error, rel=1e-5)],
    )
    assert point_charts(branches)[0].traces[0]["y"] == pytest.approx([-0.1, -0.2, -0.3])
    table = branch_table(branches)
    assert table.head == ["quantity", "beta1=0 (base)", "beta1=1 - base"] and len(table.rows) == 1


def test_many_points_have_the_error_of_their_blocks(tmp_path):
    """Four blocks of five points of a run, +1 and -1 in turn: as single points twice as sure."""
    rows = [
        {"step": step, "setting": name, "entropy": height}
        for step in range(20)
        for name, height in (("a", 0.0), ("b", 1.0 if step // 5 % 2 else -1.0))
    ]
    (tmp_path / "branches.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    branches = Branches(tmp_path)
    mean = branches.mean_difference("b", "entropy")
    assert (mean.value, mean.count) == (0.0, 20)
    assert mean.error == pytest.approx((4 / 3) ** 0.5 / 2)
    (row,) = branch_table(branches).rows
    assert "± 0.58" in str(row)


def test_points_of_several_runs_have_the_error_of_the_runs(tmp_path):
    """Two runs of 20 points, +3 and +1 at each: no point differs from its neighbour, the runs do."""
    rows = [
        {"run": run, "step": step, "setting": name, "entropy": height}
        for run, more in (("one", 3.0), ("other", 1.0))
        for step in range(20)
        for name, height in (("a", 0.0), ("b", more))
    ]
    (tmp_path / "branches.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mean = Branches(tmp_path).mean_difference("b", "entropy")
    assert (mean.value, mean.error, mean.count) == (2.0, 1.0, 40)


def test_page(folder):
    statement = {
        "id": "T3",
        "statement": "entropy falls with beta1",
        "verdict": "undecided",
        "number": "2.9 s.e.",
    }
    (folder / "statements.json").write_text(json.dumps([statement]))
    page = write_report([folder], folder / "report.html").read_text()

    assert "3 branch points, 2 settings" in page
    assert "-0.2 ± 0.058 (3.5 s.e.)" in page
    assert "undecided" in page


def test_a_line_without_its_keys_is_refused(folder):
    with (folder / "branches.jsonl").open("a") as file:
        file.write('{"entropy": 1}\n')

    with pytest.raises(ValueError, match="line 7 needs 'step'"):
        Branches(folder)


def test_the_title_names_the_run(make, folder, tmp_path_factory):
    run = make.run(tmp_path_factory.mktemp("runs") / "base", steps=1, seed=3)
    branches = run / "branches" / "45d954c3"
    branches.mkdir(parents=True)
    (branches / "branches.jsonl").write_bytes((folder / "branches.jsonl").read_bytes())
    page = write_report([branches], branches / "report.html").read_text()

    assert "<h1>Branches of base" in page and "ce_gppo · seed 3" in page
