"""A variable that is set but empty or blank is an unset one, for us and for the libraries."""

from pathlib import Path

import pytest

from isentropic import folders
from isentropic.folders import CACHE, RUNS, cache_folder, runs_folder, unset_empty, variable


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_blank_variable_is_unset(blank, monkeypatch):
    monkeypatch.setenv(RUNS, blank)
    assert variable(RUNS) is None
    assert runs_folder() == Path("runs")


def test_blank_variables_are_removed():
    read = [
        *("HF_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "WANDB_MODE", "XDG_CACHE_HOME"),
        *("TMPDIR", "NETRC", "ISENTROPIC_RUNS", "ISENTROPIC_CACHE", "RAY_ADDRESS"),
    ]
    # An empty CUDA_VISIBLE_DEVICES means no GPU, and a value keeps its blanks.
    kept = {"CUDA_VISIBLE_DEVICES": "", "TMPDIR_2": "", "HF_TOKEN": " t ", "RAY_AUTH_MODE": "token"}
    for blank in ("", " "):
        environ = dict.fromkeys(read, blank) | kept
        unset_empty(environ)
        assert environ == kept


def test_made_models_stay_with_the_checkout_or_else_with_the_user(monkeypatch, tmp_path):
    """An installed package lies in the interpreter's own folders, where nothing is to be written."""
    monkeypatch.delenv(CACHE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == folders.PROJECT / ".cache" / "models"
    monkeypatch.setattr(folders, "PROJECT", tmp_path / "lib")
    assert cache_folder() == tmp_path / "home" / ".cache" / "isentropic" / "models"
