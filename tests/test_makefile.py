"""make installs what the environment is for, and does not exchange it for another device's."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INSTALL = "#!/bin/sh\nmkdir -p .venv && echo $1 >>.venv/installs\n"


@pytest.fixture
def tree(tmp_path):
    """A checkout whose install takes no time; what it was asked for is in .venv/installs."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "docker").mkdir()
    script = tmp_path / "docker" / "install.sh"
    script.write_text(INSTALL)
    script.chmod(0o755)
    project = tmp_path / "pyproject.toml"
    project.touch()
    for old in (script, project):
        os.utime(old, (1, 1))
    return tmp_path


def made(tree, *arguments):
    """The devices that were installed for so far, after one more `make`."""
    # `make test DEVICE=cuda` gives its settings on to every make that it starts.
    theirs = ("DEVICE", "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")
    environ = {name: value for name, value in os.environ.items() if name not in theirs}
    subprocess.run(["make", *arguments], cwd=tree, env=environ, check=True, capture_output=True)
    return (tree / ".venv" / "installs").read_text().split()


def test_without_an_environment_it_is_the_cpu_s(tree):
    assert made(tree, "venv") == ["cpu"]


def test_the_device_is_remembered(tree):
    assert made(tree, "venv", "DEVICE=cuda") == ["cuda"]
    assert made(tree, "venv") == ["cuda"]
    os.utime(tree / "pyproject.toml", (2**32, 2**32))
    assert made(tree, "venv") == ["cuda", "cuda"]


def test_the_other_device_is_installed_over_it(tree):
    assert made(tree, "venv") == ["cpu"]
    assert made(tree, "venv", "DEVICE=cuda") == ["cpu", "cuda"]
    assert made(tree, "venv", "DEVICE=cpu") == ["cpu", "cuda", "cpu"]
    assert made(tree, "venv") == ["cpu", "cuda", "cpu"]
