"""A run keeps the user's own code, goes on with the same alone, and is read again with its copy."""

from types import SimpleNamespace

import pytest

from isentropic.experiments.run.own_code import check_own_code, with_copies, write_own_code
from isentropic.own.code import OwnCode


def config(folder, text, package=None):
    (folder / "mine.py").write_text(text)
    code = OwnCode.read("task.reward.file", str(folder / "mine.py"))
    base = SimpleNamespace(code=None, package=package)
    return SimpleNamespace(
        task=SimpleNamespace(reward=SimpleNamespace(code=code)),
        objective=SimpleNamespace(base=base),
    )


def test_the_same_code_goes_on_another_only_if_it_is_allowed(tmp_path):
    run, first = tmp_path / "run", config(tmp_path, "a = 1\n")
    write_own_code(run, first)
    copy = run / "code" / "task.reward" / "mine.py"
    assert copy.read_text() == "a = 1\n"
    check_own_code(run, first, ())

    second = config(tmp_path, "a = 2\n")
    with pytest.raises(
        ValueError, match=r"task.reward: .*mine.py is not what .*see .*mine.py. Rest"
    ):
        check_own_code(run, second, ())
    for allowed in ("task.reward", "task", "task.reward.file"):
        check_own_code(run, second, (allowed,))
    write_own_code(run, second)
    write_own_code(run, second)
    assert copy.read_text() == "a = 2\n"
    assert copy.with_name("mine.py.1").read_text() == "a = 1\n", "what the run began with is kept"
    assert len(list(copy.parent.iterdir())) == 2


def test_a_run_without_its_copy_is_refused(tmp_path):
    with pytest.raises(ValueError, match="which has no copy at"):
        check_own_code(tmp_path / "run", config(tmp_path, "a = 1\n"), ())


def test_another_version_of_a_package_is_refused(tmp_path):
    write_own_code(tmp_path / "run", config(tmp_path, "a = 1\n", package="words 1.2"))
    check_own_code(tmp_path / "run", config(tmp_path, "a = 1\n", package="words 1.2"), ())
    with pytest.raises(ValueError, match=r"objective.base: words 1.3 is not what"):
        check_own_code(tmp_path / "run", config(tmp_path, "a = 1\n", package="words 1.3"), ())


def test_a_recorded_run_is_read_with_its_copies(tmp_path):
    """The user's file may have changed since: what the run computed with is in its folder."""
    write_own_code(tmp_path / "run", config(tmp_path, "a = 1\n"))
    values = {"task": {"reward": {"file": "elsewhere/mine.py"}}, "objective": {"file": "mine.py"}}
    found = with_copies(tmp_path / "run", values)
    assert found["task"]["reward"]["file"] == f"{tmp_path}/run/code/task.reward/mine.py"
    assert found["objective"] == {"file": "mine.py"}
    assert values["task"]["reward"]["file"] == "elsewhere/mine.py"
