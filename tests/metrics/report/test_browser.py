"""The page in a real browser: every chart in view is drawn, nothing on the console, samples stay inert."""

import html
import json
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


PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number);
    const linear = part => (part /= 255) <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  };
  const behind = node => {
    const colour = getComputedStyle(node).backgroundColor;
    return /, 0\\)$/.test(colour) ? behind(node.parentElement) : colour;
  };
  const contrast = node => {
    const [a, b] = [getComputedStyle(node).color, behind(node)].map(light).sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const texts = [...document.querySelectorAll("h1, .facts, .lead, .note, .tile span, nav a, th, td")];
  const wide = [...document.querySelectorAll("main > *, section > *, .tile, article, .chart")];
  const edge = document.documentElement.clientWidth;
  parent.postMessage({
    name: name,
    over: document.documentElement.scrollWidth - edge,
    outside: wide.filter(n => n.getBoundingClientRect().right > edge + 1).map(n => n.className),
    contrast: Math.min(...texts.map(contrast)),
    lead: document.querySelector(".lead") ? document.querySelector(".lead").getBoundingClientRect().bottom : -1,
    failed: document.getElementById("failed").textContent,
  }, "*");
}, 3000));
</script></body>"""
HOST = """<!doctype html><body><pre id="out"></pre><script>
addEventListener("message", e => document.getElementById("out").textContent += JSON.stringify(e.data) + "\\n");
</script>%s</body>"""
FRAME = (
    '<iframe name="{name} {width}" src="{name}.html" style="width:{width}px;height:900px"></iframe>'
)


@pytest.fixture(scope="module")
def looked_at(make, tmp_path_factory):
    """All kinds of pages in frames of a desk's and a phone's width; one browser looks at them."""
    folder = tmp_path_factory.mktemp("pages")
    run = make.run(folder / "a", steps=20, alarm=12, ledger=True, books=4)
    other = make.run(folder / "b", steps=20, beta1=1.0, books=4)
    (folder / "branches").mkdir()
    rows = [
        {
            "step": step,
            "setting": f"beta1={beta}",
            "entropy": 0.5 - 0.1 * beta * step,
            "kl_k1": 0.1 * beta,
        }
        for step in (1, 2, 3)
        for beta in (0, 1, 2)
    ]
    (folder / "branches" / "branches.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    pages = {"run": [run], "compare": [run, other], "branches": [folder / "branches"]}
    for name, paths in pages.items():
        page = write_report(paths, folder / "out" / f"{name}.html").read_text()
        (folder / "out" / f"{name}.html").write_text(page.replace("</body>", PROBE))
    frames = [FRAME.format(name=name, width=width) for name in pages for width in (1366, 390)]
    host = folder / "out" / "host.html"
    host.write_text(HOST % "".join(frames))
    return host


@pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on PATH (Debian: apt-get install chromium)"
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_and_can_be_read(looked_at, tmp_path, scheme):
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    command = [
        CHROMIUM,
        *FLAGS,
        *dark,
        f"--user-data-dir={tmp_path}",
        "--dump-dom",
        looked_at.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    out = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)[1]
    seen = [json.loads(line) for line in html.unescape(out).splitlines()]

    assert len(seen) == 6
    assert "CONSOLE" not in done.stderr
    for page in seen:
        assert page["over"] <= 0 and page["outside"] == [], page
        assert page["contrast"] >= 4.5, page
        assert page["failed"] == ""
        # What moved the entropy is on the first screen.
        assert page["lead"] < 900 and (page["lead"] > 0 or page["name"].startswith("branches")), (
            page
        )
