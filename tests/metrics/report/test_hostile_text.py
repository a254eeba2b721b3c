"""Whatever a run folder says, its report has the elements of the templates, and no script but ours."""

import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from isentropic.metrics.report.charts.figures import Figure
from isentropic.metrics.report.charts.static import write_static
from isentropic.metrics.report.page import NO_CHARACTER, Page, _plotly, environment
from isentropic.metrics.report.run_data import read_run
from isentropic.metrics.report.settings import group_settings
from isentropic.metrics.report.write import (
    branch_page,
    compare_page,
    relative_url,
    run_page,
    write_report,
)

ATTACKS = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</pre></td></title></style><svg onload=alert(1)>",
    "<!--",
    "]]>",
    "' onmouseover='alert(1)",
    '" onmouseover="alert(1)',
    "{{ 7 * 7 }}{% raw %}",
    "{% endfor %}{# ",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "<a href='javascript:alert(1)'>x</a>",
    "&lt;b&gt;&#60;",
    "\0",
    "\ud800",
    "\udc80",
    "\u202e\u2066\u200f",
    "@warn",
    "$x$ \\$",
    "\r\n\t\x0b\x85\u2028",
    "long " * 4000,
)
texts = st.lists(st.sampled_from(ATTACKS) | st.text(max_size=12), max_size=3).map("".join)


class Elements(HTMLParser):
    """What a page is made of: attributes with their values, scripts with their text, and the text."""

    def __init__(self, page):
        super().__init__()
        self.attributes = set()
        self.links = []
        self.scripts = []
        self.text = {"": ""}
        self._tag = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self._tag = tag
        free = ("href", "title", "data-figure", "id")  # their values are the page's own
        self.attributes |= {(tag, "", "")}
        self.attributes |= {
            (tag, name, "" if name in free else value) for name, value in attributes
        }
        self.links += [value for name, value in attributes if name in ("href", "src")]
        if tag == "script":
            self.scripts.append([attributes, ""])

    def handle_endtag(self, tag):
        self._tag = ""

    def handle_data(self, data):
        self.text[self._tag] = self.text.get(self._tag, "") + data
        if self._tag == "script":
            self.scripts[-1][1] += data

    def handle_decl(self, decl):
        assert decl == "doctype html"

    def handle_comment(self, data):
        raise AssertionError(f"no template has a comment: {data[:80]}")

    handle_pi = unknown_decl = handle_comment


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def write_lines(path, rows, *, torn=False):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step"' * torn)


def lines(text):
    """Metrics under the names that charts make labels of, and an alarm on each of two of them."""
    own = (f"{text}/x", f"cf/{text}/cosine", f"time/{text}_s", f"eval/{text}/avg_at_k", text)
    metrics = ("entropy/mean", "reward/mean", "eval/avg_at_k", "clip/low_frac", *own)
    rows = [
        {"step": step, "policy_version": step} | {name: step + 0.5 for name in metrics}
        for step in range(4)
    ]
    alarm = {"step": 3, "rule": text, "state": "raised", "action": "stop", "message": text}
    return rows, [alarm | {"metric": "entropy/mean"}, alarm | {"metric": text, "state": text}]


def config(text, seed):
    slots = ("filter", "objective", "terms", "reuse", "model", "task", "learner", "evaluation")
    values = {slot: {"name": text, "x": text, text: text} for slot in slots}
    values["evaluation"]["samples"] = text
    return values | {
        text: {text: [text, {text: text}]},
        "seed": seed,
        "run": {"name": text, "steps": 9, "label": None},
    }


def write_run(folder, text, *, seed=0, change=(0.5, 0.5)):
    """A run folder in which all texts are `text`; `change` are two numbers of its objective."""
    folder.mkdir(parents=True, exist_ok=True)
    values = config(text, seed)
    values["objective"] |= {f"{text} {index}": number for index, number in enumerate(change)}
    values["objective"]["x"] = f"{text}{change}"
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    environment = {"started": text, "git": {"commit": text, "dirty": text}}
    (folder / "environment.json").write_text(json.dumps(environment))
    metrics, alarms = lines(text)
    write_lines(folder / "metrics.jsonl", metrics, torn=True)
    write_lines(folder / "alarms.jsonl", alarms)
    (folder / "report.html").touch()


def write_samples(folder, text):
    """Texts in all columns, and in the names of a file that is shown and of one that is damaged."""
    text = text.encode("utf-8", "replace").decode()  # parquet holds no other
    key = {"split": "train", "draw": 0, "wave": 1}
    prompt = json.dumps({"messages": [{"role": text, "content": text}], "answer": text})
    rows = [
        key
        | {"sample": sample, "prompt": prompt, "response": [text, text], "reward": 0.5}
        | {"finish_reason": text, "turns": [[0, 3], [4, 5]], "origin": text}
        for sample in range(3)
    ]
    fates = [key | {"sample": 0, "fate": text}, key | {"sample": 1, "fate": "trained"}]
    name = text.replace("/", "|").replace("\0", "")[:40]
    for kind, table in (("rollouts", rows), ("trained", fates)):
        shutil.rmtree(folder / kind, ignore_errors=True)
        (folder / kind).mkdir()
        pq.write_table(pa.Table.from_pylist(table), folder / kind / f"step_0{name}.parquet")
        (folder / kind / f"step_1{name}.parquet").write_text("damaged")


def write_branches(folder, text):
    folder.mkdir(exist_ok=True)
    rows = [
        {"step": step, "setting": setting, "run": text, text: step * 0.5, "entropy": number}
        for step in (1, 2)
        for setting, number in ((text, 0.5), (f"{text} 2", 0.25))
    ]
    write_lines(folder / "branches.jsonl", rows, torn=True)
    names = ("id", "statement", "verdict", "number", "rule", text)
    (folder / "statements.json").write_text(json.dumps([dict.fromkeys(names, text)]))


def pages(folder, text):
    """The pages of a run, of two settings and of branches, whose every text is `text`."""
    write_run(folder / "a", text)
    write_run(folder / "b", text, seed=1)
    write_run(folder / "c", text, change=(1.0, 0.5))
    write_run(folder / "d", text, change=(0.5, 1.0))
    write_samples(folder / "a", text)
    write_branches(folder / "branches", text)
    runs = [read_run(folder / name) for name in "abcd"]
    assert all(run.config for run in runs) or "${" in text  # which would be an interpolation
    out = folder / "branches" / "report.html"  # beside it are statements.json
    several = compare_page(group_settings(runs), title=text, out=out)
    return [run_page(runs[0]), several, branch_page(folder / "branches")]


def elements(page):
    """Parses a page without the megabytes of plotly, which must be there once and unchanged."""
    begin, plotly, end = page.render().partition(_plotly())
    assert plotly and plotly not in end
    return Elements(begin + end)


def elements_of_file(path):
    return Elements(path.read_text(encoding="utf-8").replace(_plotly(), ""))


@pytest.fixture(scope="module")
def harmless(tmp_path_factory):
    """The elements of pages of which every text is a word; together they use every template."""
    kinds = pages(tmp_path_factory.mktemp("harmless"), "word")
    return [elements(page) for page in kinds]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=texts)
@example(text=" ".join(ATTACKS[:-1]))
@example(text="javascript:alert(1)")
@example(text="")
def test_text_stays_text(harmless, tmp_path, text):
    known = set().union(*(page.attributes for page in harmless))
    labels = {
        label
        for page in harmless
        for label in strings(json.loads(page.scripts[0][1]))
        if "<" in label
    }
    for page, twin in zip(pages(tmp_path, text), harmless, strict=True):
        shown = elements(page)
        assert shown.attributes <= known
        assert all(link.startswith(("#s", "./", "../")) or link == "data:," for link in shown.links)
        assert [script[0] for script in shown.scripts] == [script[0] for script in twin.scripts]
        assert shown.scripts[1:] == twin.scripts[1:]
        # Plotly reads tags in labels: those with one are ours.
        assert {x for x in strings(json.loads(shown.scripts[0][1])) if "<" in x} <= labels
        assert shown.text["style"] == twin.text["style"]
        assert shown.text["title"] == NO_CHARACTER.sub("\ufffd", f"{page.title}: report")


def test_every_template_was_used(harmless):
    """Else the test above would not see what a template lets through."""
    tags = {tag for page in harmless for tag, _, _ in page.attributes}
    assert {"table", "details", "pre", "article", "a", "small", "code", "footer", "nav"} <= tags
    used = {
        ("div", "class", "tile"),
        ("p", "class", "lead"),
        ("p", "class", "note"),
        ("p", "class", "warn"),
    }
    assert used <= set().union(*(page.attributes for page in harmless))
    assert {name.removesuffix(".html") for name in environment().list_templates()} == {
        "charts", "details", "lead", "note", "page", "preformatted", "samples", "table", "tiles", "token", "warnings",
    }  # fmt: skip


@pytest.mark.parametrize("text", [*ATTACKS, "_hidden", "\\frac{$}{$}"])
def test_labels_are_drawn_as_text(tmp_path, text):
    """matplotlib reads formulas, and stops at halves of surrogate pairs."""
    for name in "ab":
        write_run(tmp_path / name, text, change=(1.0, ord(name)))
    groups = group_settings([read_run(tmp_path / name) for name in "ab"])
    labelled = [group.__class__(label=text, values={}, runs=group.runs) for group in groups]

    assert len(write_static(labelled, tmp_path / "report")) == 3


NAMES = (
    b"javascript:alert(1)",
    b"data:text,x",
    b"a:b?c#d&e=f",
    b"x..",
    b"%2e%2e%2f",
    b"<img src=x onerror=alert(1)>",
    b"' onclick='alert(1)",
    b"\xff\xfe",
    "\u202eé".encode(),
    b"n" * 255,
)


@pytest.mark.parametrize("name", NAMES, ids=[str(name[:30]) for name in NAMES])
def test_a_link_is_a_path(tmp_path, harmless, name):
    """The report of a run is found through its link, and no part of the link is a scheme."""
    write_run(tmp_path / os.fsdecode(name), "word")
    write_run(tmp_path / "b", "word", change=(1.0, 0.5))
    out = write_report([tmp_path], tmp_path / "report.html")
    shown = elements_of_file(out)

    links = [link for link in shown.links if link.endswith("report.html")]
    assert len(links) == 2
    for link in links:
        assert urlsplit(link)[:2] == ("", "") and not urlsplit(link).query
        assert os.path.isfile(os.fsencode(out.parent) + b"/" + unquote_to_bytes(link))
    assert shown.attributes <= set().union(*(page.attributes for page in harmless))


def test_two_runs_of_one_name_have_their_own_links(tmp_path):
    for folder in "ab":
        write_run(tmp_path / folder, "twin")
    shown = elements_of_file(write_report([tmp_path], tmp_path / "report.html"))

    links = [link for link in shown.links if link.endswith("report.html")]
    assert links == ["./a/report.html", "./b/report.html"]


def test_figures_cannot_end_their_script():
    page = Page(title="x", facts="")
    page.charts([Figure(title="x", traces=[{"name": "</script><!--"}], layout={})])
    shown = elements(page)

    assert len(shown.scripts) == 3
    assert json.loads(shown.scripts[0][1])[0]["data"] == [{"name": "</script><!--"}]


def test_relative_url():
    start = Path("/sweep")
    assert relative_url(Path("/sweep/a b/x.html"), start) == "./a%20b/x.html"
    assert relative_url(Path("/other/x.html"), start) == "../other/x.html"
    assert relative_url(Path("/sweep/..a/x.html"), start) == "./..a/x.html"
    assert relative_url(Path("/sweep/javascript:x/x.html"), start) == "./javascript%3Ax/x.html"
