"""The examples of docs/extend.md work as they stand: put into a copy of this tree, their tests pass."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(?:python|yaml)\n# ([^\s,]+)(?:, (.+?))?\n(.*?)```", re.DOTALL)
LOAD = """
import sys
import torch
from hydra import compose, initialize_config_dir
from isentropic.experiments.settings.load import load
with initialize_config_dir(version_base="1.3", config_dir=sys.argv[1]):
    config = load(compose("config", overrides=sys.argv[2:]))
print(config.objective.name, config.terms.name, config.advantage.name, config.task.name)

from isentropic.objectives.loss.leaves import leaf_gradients
fields = {name: torch.zeros(2).double() for name in ("logprob", "old_logprob")}
fields |= {"advantage": torch.tensor([2.0, -1.0]).double(), "loss_weight": torch.ones(2).double() / 2}
objective = config.objective
print(leaf_gradients(objective, objective.at(1), fields).d_logprob.tolist())
"""
# The page is written for two changes that were made beside it.
BOTH_ARE_THERE = importlib.util.find_spec(
    "isentropic.objectives.terms"
).submodule_search_locations and importlib.util.find_spec("isentropic.methods.fates")
waits = pytest.mark.skipif(not BOTH_ARE_THERE, reason="terms as a room, slots in one shape")


def blocks():
    """(path, where in it, text) of each block of code, in the order of the page."""
    return BLOCK.findall(PAGE)


def put(root, path, where, text):
    file = root / path
    if not where:
        assert not file.exists(), f"{path} exists already: the example is in the tree"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return
    lines = file.read_text().splitlines(keepends=True)
    if where == "at the end":
        file.write_text("".join(lines) + "\n\n" + text)
        return
    how, _, start = where.partition(": ")
    found = [number for number, line in enumerate(lines) if line.strip().startswith(start)]
    assert len(found) == 1, f"{path} has {len(found)} lines that start with {start!r}"
    begin = found[0] + (how == "below")
    assert how in ("below", "in place of"), where
    file.write_text("".join([*lines[:begin], text, *lines[found[0] + 1 :]]))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    for folder in ("platform", "conf"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for path, where, text in blocks():
        put(root, path, where, text)
    return root


def run(root, *command):
    environment = {**os.environ, "PYTHONPATH": str(root / "platform")}
    done = subprocess.run(
        [sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_block_says_where_it_goes():
    assert len(blocks()) == len(re.findall(r"```(?:python|yaml)\n", PAGE))


def test_an_objective_is_under_forty_lines():
    section = PAGE.split("## An objective", 1)[1].split("\n## ", 1)[0]
    lines = [line for *_, text in BLOCK.findall(section) for line in text.splitlines() if line]
    assert len(lines) < 40


@waits
def test_the_tests_of_the_page_pass(tree):
    tests = [path for path, where, _ in blocks() if path.startswith("tests/") and not where]
    assert len(tests) >= 5
    run(tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)


@waits
def test_the_presets_of_the_page_load(tree):
    chosen = ["objective=tempered", "terms=proximity", "advantage=median", "task=parity"]
    said = run(tree, "-c", LOAD, str(tree / "conf"), "experiment=ce_gppo_tiny", *chosen)
    names, slopes = said.splitlines()
    assert names == "tempered proximity median parity"
    assert slopes == "[-1.0, 0.5]"  # -A times the weight of a half: on policy the power is silent


@waits
def test_the_other_presets_of_the_page_load(tree, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # a cluster: its GPUs are not counted here
    said = run(tree, "-c", LOAD, str(tree / "conf"), "model=mine", "task=concise")
    assert said.splitlines()[0].split()[-1] == "concise"
