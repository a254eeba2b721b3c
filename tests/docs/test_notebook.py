"""The notebook of docs/ runs as it stands, here on runs that are made by fakes."""

import re
from pathlib import Path

import nbformat
import pytest

from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.load import load

ROOT = Path(__file__).resolve().parents[2]


def test_the_notebook_runs(docs_script, fake_runs, tmp_path, monkeypatch):
    (tmp_path / "runs").symlink_to(fake_runs)
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.delenv("ISENTROPIC_RUNS", raising=False)
    for name in ("PYTHONPATH", "PYTHONWARNINGS", "MPLBACKEND"):
        monkeypatch.setenv(name, "")  # what the script sets is taken back after the test
    notebook = docs_script("make_notebook").make("low", "high", 3, tmp_path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [kind for output in outputs for kind in output.get("data", {})]
    assert shown.count("image/png") == 2 and shown.count("text/html") >= 6
    assert "<Run low, ce_gppo, finished, runs/low>" in str(outputs[0])


@pytest.fixture(scope="module")
def page():
    return nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)


def test_the_page_is_the_script_s_and_executed(page, docs_script):
    written = [(cell.cell_type, cell.source) for cell in page.cells]
    assert written == docs_script("make_notebook").cells("clip_higher", "ce_gppo", 20), (
        "run docs/make_notebook.py"
    )
    code = [cell for cell in page.cells if cell.cell_type == "code"]
    assert all(cell.execution_count and cell.outputs for cell in code[1:])
    assert not [out for cell in code for out in cell.outputs if out.output_type == "error"]


def test_the_runs_that_the_page_asks_for_have_what_its_cells_read(page):
    text = "\n".join(cell.source for cell in page.cells)
    trained = re.findall(
        r'"([\w.]+=\w+)"', text.partition("isentropic.train")[2].partition("```")[0]
    )
    run = load(compose([*trained, "method=clip_higher"]))
    branched = re.search(r'branch\("(\w+)", \[(\d+)\], \["(objective\.\w+)=', text)
    step = int(re.search(r"run\.tokens\((\d+)\)", text)[1])
    assert run.accounting.ledger.measures(step) and step <= run.run.steps
    # A branch goes on from a step, and its setting is one of that run's method.
    method, after, key = branched.groups()
    assert int(after) < run.run.steps
    assert load(compose([*trained, f"method={method}", f"{key}=1"]))


def test_the_page_is_small_and_of_no_machine(page):
    path = ROOT / "docs" / "notebook.ipynb"
    assert path.stat().st_size < 200_000
    nbformat.validate(page)
    assert "site-packages" not in path.read_text(encoding="utf-8")
