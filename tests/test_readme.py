"""Every command of README and pages names a job, a preset and keys that exist; every link leads somewhere."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), ROOT / "docker" / "README.md"]
CONF = ROOT / "conf"

# Keys of a job's own, which are no keys of the config.
OPTIONS = {
    "sweep": {"sweep", "name", "parallel", "resume", "early_stop", "dry", "yes"},
    "branch": {"run", "steps", "out", "sweep", "exact", "contexts", "processes", "orders"},
    "replay": {"run", "step", "exact"},
    "attribute": {"run", "steps", "contexts", "by", "exact", "ranks", "name"},
    "evaluate": {"run", "step", "samples", "prompts", "temperature", "top_p", "task"},
    "export": {"run", "step", "to", "dtype"},
    "report": {"out"},
    "submit": {"address", "name", "runs", "follow", "dry"},
    "train": set(),
    "doctor": set(),
    "make_teachers": {"out", "prompts"},
}


def commands():
    """(page, words) of each command in a block of shell."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                found += [(page.name, words)] if words else []
    return found


def jobs():
    """(page, job's name, its arguments)."""
    found = []
    for page, words in commands():
        scripts = [i for i, word in enumerate(words) if re.fullmatch(r"jobs/\w+\.py", word)]
        found += [(page, Path(words[i]).stem, words[i + 1 :]) for i in scripts]
    return found


def own_files():
    """Name -> text of the files that a page has its reader write: their first line is their name."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    return dict(re.findall(r"```python\n# (my_\w+\.py)\n(.*?)```", text, re.DOTALL))


def overrides_of(job, arguments):
    """The arguments that are Hydra overrides; of several values the first."""
    if job == "submit":
        return overrides_of("train", [each for each in arguments[1:] if not is_option(job, each)])
    if job not in ("train", "sweep", "branch"):
        return []
    base = ["experiment=ce_gppo_tiny"] if job == "branch" else []
    own = [each for each in arguments if not is_option(job, each) and not each.startswith("-")]
    return base + [re.sub(r"=([^,\[{]+),.*", r"=\1", each) for each in own if "=" in each]


def is_option(job, argument):
    return argument.partition("=")[0] in OPTIONS[job]


@pytest.mark.parametrize(
    ("page", "job", "arguments"),
    jobs(),
    ids=lambda value: None if isinstance(value, str) else " ".join(value)[:60],
)
def test_a_command_can_be_run(page, job, arguments, monkeypatch, tmp_path):
    from hydra import compose, initialize_config_dir

    from isentropic.experiments.settings.load import load
    from isentropic.experiments.settings.overrides import for_hydra

    assert (ROOT / "jobs" / f"{job}.py").is_file(), page
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # a cluster: its GPUs are not counted here
    preset = [each.partition("=")[2] for each in arguments if each.startswith("sweep=")]
    for name in preset if job in ("sweep", "branch") else []:
        values = yaml.safe_load((CONF / "sweep" / f"{name}.yaml").read_text(encoding="utf-8"))
        arguments = [*values.get("overrides", []), *arguments]
    overrides = for_hydra(overrides_of(job, arguments))
    if overrides:
        for name, text in own_files().items():
            (tmp_path / name).write_text(text)
        monkeypatch.chdir(tmp_path)
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            load(compose("config", overrides=[*overrides, f"run.dir={tmp_path}"]))
    for argument in arguments if job in ("evaluate", "export", "replay") else []:
        assert is_option(job, argument), f"{page}: {job}.py has no {argument!r}"


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page, words in commands():
        for target in [word for word in words[1:] if words[0] == "make" and "=" not in word]:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page}: make {target}"


def test_python_and_yaml_blocks_parse():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for kind, block in re.findall(r"```(python|yaml)\n(.*?)```", text, re.DOTALL):
            if kind == "yaml":
                yaml.safe_load(block)
            elif ", " not in block.splitlines()[0]:  # a whole file; a part of one has its own test
                compile(block, page.name, "exec")


def anchors(page):
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


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
