"""The page as a whole: what it says, that it needs nobody, and what the command refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from isentropic.experiments.commands.report import main
from isentropic.metrics.report import write_report

JOB = Path(__file__).resolve().parents[3] / "jobs" / "report.py"
LARGEST = 6_000_000


def without_plotly(page):
    return re.sub(r"<script type='text/plain' id='plotly'>.*?</script>", "", page, flags=re.DOTALL)


def test_run(make, tmp_path):
    folder = make.run(tmp_path / "a", steps=20, alarm=12, ledger=True)
    out = write_report([folder], folder / "report.html")
    page = without_plotly(out.read_text())

    assert out.stat().st_size < LARGEST
    for words in (
        "Entropy of the policy",
        "Entropy fell",
        "entropy collapse",
        "0123456789 with changes",
        "pass@4",
    ):
        assert words.lower() in page.lower()
    assert "1.62" in page and "finished" in page
    # What moved the entropy comes before the numbers.
    assert page.index("<p class='lead'>") < page.index("<div class='tiles'>")
    assert sorted(path.name for path in (folder / "report").iterdir()) == [
        "clip.png",
        "entropy.png",
        "reward.png",
    ]


def test_the_page_asks_nobody(make, tmp_path):
    folder = make.run(tmp_path / "a", steps=3, ledger=True)
    page = without_plotly(write_report([folder], folder / "report.html").read_text())

    assert re.findall(r"(?:src|href)='?\"?(?:https?:)?//", page) == []
    assert "default-src 'none'" in page
    assert page.count("<script") == 2  # figures and our own; those of the samples are text


@pytest.mark.parametrize("done", [-1, 0, 1])
def test_a_run_that_has_hardly_begun(make, tmp_path, done):
    folder = make.run(tmp_path / "a", done=done)

    assert "still going" in write_report([folder], folder / "report.html").read_text()


def test_a_long_run_stays_small(make, tmp_path):
    """4000 steps of the third step's metrics."""
    folder = make.run(tmp_path / "a", steps=3, ledger=True)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    rows = (
        last | {"step": step, "policy_version": 8 * step, "reward/mean": 1 / step}
        for step in range(4, 4001)
    )
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)

    assert write_report([folder], folder / "report.html").stat().st_size < LARGEST


def test_sweep(make, tmp_path):
    folder = make.sweep(tmp_path / "sweep", steps=10)
    write_report([folder / "b1_0.0-b2_1.0-s_0"], folder / "b1_0.0-b2_1.0-s_0" / "report.html")
    page = without_plotly(write_report([folder], folder / "report.html").read_text())

    assert "12 runs of 6 settings: 12 finished" in page
    assert page.count("against beta1=") == 6
    assert "Final entropy" in page and "Final reward" in page
    assert "href='./b1_0.0-b2_1.0-s_0/report.html'" in page
    assert (folder / "report" / "entropy.png").stat().st_size > 10_000


def test_command_by_name_and_by_path(make, tmp_path, monkeypatch, capsys):
    make.run(tmp_path / "runs" / "a", steps=3)
    make.run(tmp_path / "runs" / "b", steps=3, beta1=1.0)
    monkeypatch.chdir(tmp_path)

    main(["a"])
    main(["a", "runs/b", "out=both.html"])

    assert (tmp_path / "runs" / "a" / "report.html").exists()
    assert "2 runs of 2 settings" in (tmp_path / "both.html").read_text()
    assert "a/report.html" in capsys.readouterr().out


def test_job_refuses_what_is_no_run(make, tmp_path):
    make.run(tmp_path / "runs" / "known", steps=1)
    (tmp_path / "empty").mkdir()
    for given, said in (
        ("empty", "is not a run folder and contains none"),
        ("nowhere", "Runs here: known"),
    ):
        done = subprocess.run(
            [sys.executable, JOB, given], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert (
            said in done.stderr
            and "metrics.jsonl" in done.stderr
            and "Traceback" not in done.stderr
        )
