"""What README and pages name exists: links, anchors, documents; their Python and YAML can be read.

tests/docs/test_blocks.py tries their commands.
"""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), ROOT / "docker" / "README.md"]


def test_python_and_yaml_blocks_parse():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for kind, block in re.findall(r"```(python|yaml)\n(.*?)```", text, re.DOTALL):
            if kind == "yaml":
                yaml.safe_load(block)
            elif ", " not in block.splitlines()[0]:  # a whole file; a part of one has its own test
                compile(block, page.name, "exec")


def anchors(page):
    """GitHub's anchors of a page's headings, and those that the page sets itself."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    named = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return named | set(re.findall(r'<a id="([^"]+)">', text))


def test_every_link_leads_somewhere():
    broken = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            target, _, anchor = link.partition("#")
            file = page.parent / target if target else page
            if link.startswith("http"):
                continue
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{page.name}: {link}")
    assert not broken


NOT_HERE = re.compile(
    r"specs/|\bspecs? [A-D]\.\d|\bDESIGN\b|\bHOUSE\b|\bSTYLE\.md|\bdocs of metrics/"
)


def naming_a_missing_document():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    kinds = {".py", ".yaml", ".toml", ".md", ".sh", ".cff", ".css", ".js", ""}
    found = set()
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix not in kinds or not path.is_file() or path == Path(__file__).resolve():
            continue
        if NOT_HERE.search(path.read_text(encoding="utf-8", errors="replace")):
            found.add(name)
    return found


def test_no_file_points_to_a_document_that_is_not_here():
    assert not naming_a_missing_document()


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{citation["version"]}"' in project
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    assert {"title", "message", "authors", "type"} <= set(citation)
