"""docs/results.md is its JSON files: no number on the page stands for itself."""

import itertools
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


class Numbers:
    """Numbers that no two cells share, so that each is seen to stand in its own."""

    def __init__(self):
        self._count = itertools.count(1)

    def about(self, scale=1.0, count=3):
        number = next(self._count)
        mean = scale * (0.1003 + 0.00137 * number) * (-1) ** number
        return {
            "mean": mean,
            "error": scale * (0.00211 + 0.000073 * number),
            "count": count,
            "values": [mean] * count,
        }

    def one(self):
        return self.about()["mean"]


NUMBERS = ("avg_last", "avg_best", "pass_last", "pass_best", "avg_at_budget", "entropy_final")
DIFFERENCES = ("avg_last", "avg_at_budget", "entropy_final", "entropy_mean")
BOOKS = ("pa_hp", "pa_lp", "na_hp", "na_lp", "zero_adv")


def setting(new, label, base, own=""):
    numbers = {key: new.about() for key in (*NUMBERS, "entropy_mean")}
    numbers |= {"tokens": new.about(1e7), "seconds": new.about(1e3)}
    return {
        "label": label,
        "seeds": [0, 1, 2],
        "finished": 3 if base else 2,
        "numbers": numbers,
        "books": {name: new.about(0.01) for name in BOOKS},
        "law": {key: abs(new.one()) for key in ("a", "a_error", "b", "b_error", "r2")}
        | {"count": 18}
        if base
        else {"why": "exp(H) moved by 0.04 only; 0.05 is needed", "count": 18},
        "against_base": {} if base else {key: new.about() for key in DIFFERENCES},
        "own_base": own,
        "against_own": {key: new.about() for key in DIFFERENCES} if own else {},
        "command": "python jobs/train.py run.name=again seed=0",
    }


@pytest.fixture
def found():
    new = Numbers()
    base = {"part": "methods", "title": "The table", "command": "python jobs/results.py methods"}
    base |= {"sweep": "results_methods", "recipe": ["evaluation.every=10"], "seeds": [0, 1, 2]}
    base |= {"runs": {"planned": 69, "over": 66}, "hours": 4.56, "base": "GRPO", "figures": []}
    base |= {"machines": ["2 CPUs, 15.5 GiB of memory, no GPU, Linux"], "budget": 612_345}
    base["start_avg"] = new.about()
    base["pooled"] = {
        key: {"error": 0.0123 * number, "seeds": 3, "freedom": 44}
        for number, key in enumerate(DIFFERENCES, start=1)
    }
    base["settings"] = [
        setting(new, "GRPO", True),
        setting(new, "DA|PO", False),
        setting(new, "A x B", False, own="DA|PO"),
    ]
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
    entropy = {
        label: {"value": abs(new.one()), "error": 0.01, "count": 120} for label in order["labels"]
    }
    base["trend"] = {
        "labels": ["(0, 1)", "(1, 1)"],
        "slopes": {key: new.about() for key in DIFFERENCES},
        "books": {key: new.about() for key in BOOKS},
        "pooled": base["pooled"],
    }
    base["branches"] = {
        "points": 120,
        "command": "python jobs/branch.py run=again steps=10",
        "entropy": entropy,
        "against": {"(1, 1)": new.about()},
        "orders": [order | {"by_run": new.about() | {"values": [0.011, 0.013]}}],
    }
    base["points"] = {"needed": {"T3 beta1": 77}}
    return {"methods": base}


def table(page, title):
    """The rows of the table behind a title, by their first cell: each a list of the other cells."""
    lines = iter(page[page.index(title) :].splitlines())
    rows = list(
        itertools.takewhile(
            lambda line: line.startswith("|"),
            itertools.dropwhile(lambda line: not line.startswith("|"), lines),
        )
    )
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip("|"))] for row in rows if row
    ]
    return cells[0], {row[0]: row[1:] for row in cells[2:]}


def test_each_cell_of_a_table_has_the_number_of_its_head(pages, found):
    """By the heads, in words: what the template takes for them is not looked at."""
    page, part = pages.render(found), found["methods"]
    names = {"GRPO": "GRPO", "DA\\|PO": "DA|PO", "A x B": "A x B"}
    rows = {row["label"]: row for row in part["settings"]}

    head, cells = table(page, "### The table")
    assert head == [
        "setting", "avg@k, last", "best", "pass@k, last", "best", "avg@k at equal tokens",
        "entropy, end", "entropy, run", "million tokens drawn", "seconds",
    ]  # fmt: skip
    keys = (*NUMBERS, "entropy_mean", "tokens", "seconds")
    for shown, (label, row) in zip(cells, rows.items(), strict=True):
        ended = "" if row["finished"] == 3 else " (2 of 3 to the end)"
        assert names[shown.removesuffix(ended)] == label
        scales = [1e6 if key == "tokens" else 1.0 for key in keys]
        wanted = [pages.mean(row["numbers"][key], by) for key, by in zip(keys, scales, strict=True)]
        assert cells[shown] == wanted

    head, cells = table(page, "Difference to GRPO, paired by seed; pooled over 44 degrees of")
    difference_heads = ["avg@k, last", "avg@k at equal tokens", "entropy, end", "entropy, run"]
    assert head == ["setting", "pairs", *difference_heads]
    for shown, label in list(names.items())[1:]:
        told = rows[label]["against_base"]
        wanted = [pages.difference(told[key], part["pooled"][key]) for key in DIFFERENCES]
        assert cells[shown] == ["3", *wanted]

    head, cells = table(page, "The difference of each to what it is added to:")
    assert head == ["setting", "to", "pairs", *difference_heads]
    told = rows["A x B"]["against_own"]
    wanted = [pages.difference(told[key], part["pooled"][key]) for key in DIFFERENCES]
    assert cells == {"A x B": ["DA\\|PO", "3", *wanted]}

    head, cells = table(page, "Along (0, 1), (1, 1), the order in which the paper has the entropy")
    assert head == ["", *difference_heads]
    slopes = part["trend"]["slopes"]
    wanted = [pages.difference(slopes[key], part["pooled"][key]) for key in DIFFERENCES]
    assert cells == {"per place": wanted}
    head, cells = table(page, "The books, per place:")
    assert head == ["", "PA&HP", "PA&LP", "NA&HP", "NA&LP", "A=0", ""]
    wanted = [pages.difference(part["trend"]["books"][key]) for key in BOOKS]
    assert cells == {"per place": [*wanted, ""]}

    head, cells = table(page, "Who moved the entropy")
    assert head == ["setting", "PA&HP", "PA&LP", "NA&HP", "NA&LP", "A=0", ""]
    for shown, label in names.items():
        assert cells[shown] == [*(pages.mean(rows[label]["books"][k]) for k in BOOKS), ""]

    head, cells = table(page, "The law of entropy and reward")
    assert head == ["setting", "points", "a", "b", "R²"]
    law = rows["GRPO"]["law"]
    fit = [f"{law[key]:.3g} ± {law[f'{key}_error']:.1g}" for key in ("a", "b")]
    assert cells["GRPO"] == ["18", *fit, f"{law['r2']:.2g}"]

    head, cells = table(page, "Entropy after the same updates, over 120 branch points")
    assert head == ["setting", "entropy", "difference to (0, 1), paired by point"]
    branches = part["branches"]
    entropies = {label: f"{about['value']:.4g}" for label, about in branches["entropy"].items()}
    assert cells["(0, 1)"] == [entropies["(0, 1)"], "-"]
    assert cells["(1, 1)"] == [
        entropies["(1, 1)"],
        pages.difference(branches["against"]["(1, 1)"]),
    ]


def test_numbers_are_written_so_that_their_errors_are_seen(pages):
    about = {"mean": 0.412345, "error": 0.0123, "count": 3}
    assert pages.mean(about) == "0.412 ± 0.012"
    assert pages.mean({"mean": 1_234_567.0, "error": 1234.0}, 1e6) == "1.2346 ± 0.0012"
    assert pages.mean({"mean": 137.25, "error": None}) == "137"
    assert pages.mean(None) == pages.mean({"mean": None, "error": None}) == "-"
    less, pooled = {"mean": -0.0345, "error": 0.0067, "count": 3}, {"error": 0.0123, "seeds": 3}
    assert pages.difference(less) == "-0.0345 ± 0.0067 (-5.1 s.e.)"
    assert pages.difference(less, pooled) == "-0.0345 ± 0.0067 (-5.1 s.e., pooled -2.8)"
    fewer = pages.difference(less | {"count": 2}, pooled)  # times the root of 2 / 3
    assert fewer == "-0.0345 ± 0.0067 (-5.1 s.e., pooled -2.3)"
    assert pages.difference({"mean": 0.1, "error": 0.05}) == "+0.100 ± 0.050 (+2.0 s.e.)"


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
        if node.get("error") and node.get("mean") is not None:
            found |= shown_as(node["mean"] / node["error"]) | shown_as(node["mean"] / 1e6)
            found |= shown_as(node["error"] / 1e6)
        budget = shown_as(node["budget"] / 1e6) if "budget" in node else set()
        return found | _of_pools(node) | budget
    if isinstance(node, list):
        return set().union(*map(allowed, node), shown_as(len(node)))
    if isinstance(node, str):
        return set(NUMBER.findall(node))
    return shown_as(node) if isinstance(node, int | float) else set()


def _of_pools(part):
    """The multiples of the pooled errors, of a part or of its trend."""
    rows = [row for row in part.get("settings", ()) if isinstance(row, dict)]
    told = [row[of] for row in rows for of in ("against_base", "against_own") if row[of]]
    told += [part["slopes"]] if "slopes" in part else []
    return {
        form
        for about in told
        for key, pooled in part.get("pooled", {}).items()
        if about[key]["mean"] is not None
        for form in shown_as(about[key]["mean"] / pooled["error"])
    }


def test_every_number_of_the_page_stands_in_the_json(pages, found):
    page = pages.render(found)
    fixed = {word for spot in FIXED.findall(TEMPLATE.read_text()) for word in NUMBER.findall(spot)}
    names = {word for part in pages.PARTS for word in NUMBER.findall(part.title)}
    strange = set(NUMBER.findall(page)) - allowed(found) - fixed - names
    assert not strange
    # That test can fail: the same page is not of other numbers.
    mean = found["methods"]["settings"][0]["numbers"]["avg_last"]["mean"]
    other = json.loads(json.dumps(found).replace(f"{mean}", f"{mean - 1}"))
    assert set(NUMBER.findall(page)) - allowed(other) - fixed - names


def test_what_the_page_says(pages, found):
    page = pages.render(found)
    assert "no fit: exp(H) moved by 0.04 only" in page
    assert "| T5 | **not held** | +0.12 ± 0.03 | methods |" in page
    assert "- T5, not held: it falls." in page
    assert "| T9 | methods | not held | 9 |" in page
    assert "66 of 69 runs" in page
    assert "| grpo | oger | refused: both set filter |" in page
    assert "| grpo | papo | composes |" in page
    assert "| T3 beta1 | 77 |" in page
    assert "Together" not in page
    assert "### The same on another machine" not in page
    assert "Together 151 runs took 6.25 hours" in pages.render(found, {"runs": 151, "hours": 6.25})


def test_what_a_part_came_to_elsewhere_stands_beside_what_it_came_to_here(pages, found):
    """Once its runs are kept, which is to say once it was made again."""
    row = {"part": "methods", "id": "T5", "verdict": "undecided", "number": "0|1", "seeds": [3, 4]}
    tables = {"methods": json.loads(json.dumps(found["methods"]).replace("0.", "1."))}
    before = {"statements": [row, row | {"id": "T4"}], "tables": tables}
    found["methods"]["commits"] = []  # known, if only that there was no checkout
    page = pages.render(found, None, before)
    assert "| T5 | methods | undecided | 0\\|1 | 3, 4 | not held |" in page
    assert "| T4 | methods | undecided" not in page
    assert "Not kept are those of" not in page
    old = tables["methods"]
    _, cells = table(page, "<summary>the same on the machine before</summary>")
    told = old["settings"][1]["against_base"]
    assert cells["DA\\|PO"] == [
        "3",
        *(pages.difference(told[key], old["pooled"][key]) for key in DIFFERENCES),
    ]
    elsewhere = page[page.index("<summary>the same on the machine before</summary>") :]
    _, cells = table(elsewhere, "The difference of each to what it is added to:")
    told = old["settings"][2]["against_own"]
    added = [pages.difference(told[key], old["pooled"][key]) for key in DIFFERENCES]
    assert cells == {"A x B": ["DA\\|PO", "3", *added]}
    _, cells = table(elsewhere, "Along the same order:")
    slopes = [pages.difference(old["trend"]["slopes"][k], old["pooled"][k]) for k in DIFFERENCES]
    assert cells == {"per place": slopes}
    _, cells = table(elsewhere, "The books, per place:")
    assert cells == {
        "per place": [*(pages.difference(old["trend"]["books"][k]) for k in BOOKS), ""]
    }
    del found["methods"]["commits"]
    page = pages.render(found, None, before)
    assert "### The same on another machine" not in page
    assert "the same on the machine before" not in page
    assert "Not kept are those of methods" in page


def test_machines_are_told_apart(pages, found):
    """Each has a letter, and a part that of the machine of its runs."""
    there = found["methods"] | {"machines": ["8 CPUs"]}
    lines = pages.render(found | {"fig3": there}).splitlines()
    assert "- **A**: 8 CPUs" in lines  # of the part that comes first
    assert "- **B**: 2 CPUs, 15.5 GiB of memory, no GPU, Linux" in lines
    score = pages.mean(found["methods"]["start_avg"])
    assert [line.split(" | ")[4:6] for line in lines if line.startswith(("| [fig3]", "| [me"))] == [
        ["A", score], ["B", score]
    ]  # fmt: skip


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
