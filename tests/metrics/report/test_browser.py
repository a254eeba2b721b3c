"""The page in a real browser: every chart in view is drawn, nothing on the console, samples stay inert."""

import re
import shutil
import subprocess

import pytest

from isentropic.metrics.report import write_report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-sync", "--enable-logging=stderr", "--virtual-time-budget=10000", "--window-size=1366,9000",
)  # fmt: skip


@pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on PATH (Debian: apt-get install chromium)"
)
def test_charts_are_drawn(make, tmp_path):
    folder = make.run(tmp_path / "a", steps=20, alarm=12, ledger=True)
    page = write_report([folder], folder / "report.html")

    command = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)

    in_view = done.stdout.split("<details>")[0]
    charts = in_view.count("data-figure=")
    assert charts > 20
    assert in_view.count('class="plot js-plotly-plot"') == charts
    assert len(re.findall(r'class="main-svg"', in_view)) >= charts
    assert "CONSOLE" not in done.stderr
    assert "<title>a: report</title>" in done.stdout
    assert "The charts could not be drawn" not in in_view
