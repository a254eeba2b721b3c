"""docs/results.md is its JSON files: no number on the page stands for itself."""

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "docs" / "results" / "page.md.j2"
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?")
FIXED = re.compile(r"\{# fixed #\}.*?\{# end fixed #\}", re.DOTALL)


@pytest.fixture(scope="module")
def pages(docs_script):
    return docs_script("make_results")


def about(mean, error, count=3):
    return {"mean": mean, "error": error, "count": count, "values": [mean] * count}


KEYS = ("avg_last", "avg_best", "pass_last", "pass_best", "avg_at_budget", "entropy_final")


def setting(label, shift, base):
    numbers = {key: about(0.412345 + shift, 0.0123) for key in (*KEYS, "entropy_mean")}
    numbers |= {"tokens": about(1_234_567.0, 1234.0), "seconds": about(137.25, None)}
    keys = ("avg_last", "avg_at_budget", "entropy_final", "entropy_mean")
    return {
        "label": label,
        "seeds": [0, 1, 2],
        "finished": 3 if base else 2,
        "numbers": numbers,
        "books": {name: about(-0.00123, 0.00031) for name in ("pa_hp", "na_lp")},
        "law": {"a": 0.71, "a_error": 0.05, "b": 1.61, "b_error": 0.06, "r2": 0.87, "count": 18}
        if base
        else {"why": "exp(H) moved by 0.04 only; 0.05 is needed", "count": 18},
        "against_base": {} if base else {key: about(-0.0345, 0.0067) for key in keys},
        "command": "python jobs/train.py run.name=again seed=0",
    }


@pytest.fixture
def found():
    base = {"part": "methods", "title": "The table", "command": "python jobs/results.py methods"}
    base |= {"sweep": "results_methods", "recipe": ["evaluation.every=10"], "seeds": [0, 1, 2]}
    base |= {"runs": {"planned": 69, "over": 66}, "hours": 4.56, "base": "GRPO", "figures": []}
    base |= {"machines": ["2 CPUs, 15.5 GiB of memory, no GPU"]}
    base["settings"] = [setting("GRPO", 0.0, True), setting("DA|PO", 0.05, False)]
    row = {"statement": "it falls", "verdict": "not held", "rule": "3 s.e.", "decides": True}
    base["statements"] = [
        row | {"id": "T5", "number": "+0.12 ± 0.03"},
        row | {"id": "T9", "number": "9", "decides": False},
    ]
    base["refusals"] = [
        {"base": "grpo", "addition": "papo", "refused": None},
        {"base": "grpo", "addition": "oger", "refused": "both set filter"},
    ]
    ends = {"value": 0.012345, "error": 0.002, "count": 120}
    order = {"id": "T3 beta1", "labels": ["(0, 1)", "(1, 1)"], "ends": ends, "neighbours": [ends]}
    entropy = {"(0, 1)": {"value": 0.37654, "error": 0.01, "count": 120}}
    base["branches"] = {
        "points": 120,
        "entropy": entropy,
        "orders": [order | {"by_run": about(0.012, 0.001) | {"values": [0.011, 0.013]}}],
    }
    base["points"] = {"needed": {"T3 beta1": 77}}
    return {"methods": base}


def test_the_page_is_current():
    command = [sys.executable, "docs/make_results.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def own_text(template):
    """What the template says itself, outside of the spots that are marked as fixed, and of code."""
    text = FIXED.sub("", template)
    return re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|`[^`\n]*`", "", text, flags=re.DOTALL)


def test_prose_has_no_number_of_its_own():
    assert not re.findall(r"\d", own_text(TEMPLATE.read_text(encoding="utf-8")))
    assert re.findall(r"\d", own_text("It rose by 12 % {{ value }}")) == ["1", "2"]


def shown_as(value):
    """The ways in which a number of the JSON may stand on the page."""
    forms = {f"{value:,}"} | {f"{value:.{digits}g}" for digits in range(1, 7)}
    return forms | {f"{value:.{digits}f}" for digits in range(7)}


def allowed(node):
    """All numbers that a JSON may bring to the page: its own, those in its texts, and its ratios."""
    if isinstance(node, dict):
        found = set().union(*map(allowed, [*node.keys(), *node.values()]))
        if isinstance(node.get("error"), float) and node.get("mean") is not None:
            found |= shown_as(node["mean"] / node["error"]) | shown_as(node["mean"] / 1e6)
            found |= shown_as(node["error"] / 1e6)
        return found
    if isinstance(node, list):
        return set().union(*map(allowed, node), shown_as(len(node)))
    if isinstance(node, str):
        return set(NUMBER.findall(node))
    return shown_as(node) if isinstance(node, int | float) else set()


def test_every_number_of_the_page_stands_in_the_json(pages, found):
    page = pages.render(found)
    fixed = {word for spot in FIXED.findall(TEMPLATE.read_text()) for word in NUMBER.findall(spot)}
    names = {word for part in pages.PARTS for word in NUMBER.findall(part.title)}
    strange = set(NUMBER.findall(page)) - allowed(found) - fixed - names
    assert not strange
    # That test can fail: the same page is not of other numbers.
    other = json.loads(json.dumps(found).replace("0.412345", "0.512345"))
    assert set(NUMBER.findall(page)) - allowed(other) - fixed - names


def test_what_the_page_says(pages, found):
    page = pages.render(found)
    assert "| DA\\|PO (2 of 3 to the end) | 0.462 ± 0.012 |" in page
    assert "1.2346 ± 0.0012 | 137 |" in page  # million tokens; no error of the seconds
    assert "-0.0345 ± 0.0067 (-5.1 s.e.)" in page
    assert "no fit: exp(H) moved by 0.04 only" in page
    assert "| T5 | **not held** | +0.12 ± 0.03 | methods |" in page
    assert "- T5, not held: it falls." in page
    assert "| T9 | methods | not held | 9 |" in page
    assert "66 of 69 runs" in page
    assert "| grpo | oger | refused: both set filter |" in page
    assert "| grpo | papo | composes |" in page
    assert "| T3 beta1 | 77 |" in page
    assert "Together" not in page
    assert "Together 151 runs took 6.25 hours" in pages.render(found, {"runs": 151, "hours": 6.25})


def test_parts_without_runs_are_said_to_have_none(pages, found):
    page = pages.render(found)
    assert "| fig3 | The beta grid (figure 3) | **not run yet** |" in page
    assert page.count("**not run yet**") == len(pages.PARTS) - 1
    assert pages.render({}).count("**not run yet**") == len(pages.PARTS)
    assert "Nothing has been judged yet." in pages.render({})


def test_tables_are_whole(pages, found):
    """Rows of a table have as many cells as its head: GitHub drops the others."""
    rows = [line for line in pages.render(found).splitlines() if line.startswith("|")]
    assert rows
    width = 0
    for before, line in pairwise(["", *pages.render(found).splitlines()]):
        if line.startswith("|"):
            cells = len(re.findall(r"(?<!\\)\|", line))
            width = cells if not before.startswith("|") else width
            assert cells == width, line
