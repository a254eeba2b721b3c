"""A run's record says whether its code was that of a commit."""

import subprocess

from isentropic.experiments.run.environment import git_state


def test_numbers_of_results_are_no_change_of_the_code(tmp_path):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True, text=True
        ).stdout

    assert git_state(tmp_path) is None
    code, numbers = tmp_path / "platform", tmp_path / "docs" / "results"
    for folder in (code, numbers):
        folder.mkdir(parents=True)
        (folder / "file").write_text("as committed")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "all")
    # From any folder of the checkout.
    assert git_state(code) == {"commit": git("rev-parse", "HEAD").strip(), "dirty": False}
    (numbers / "file").write_text("of another run")
    (numbers / "new").touch()
    assert not git_state(code)["dirty"]
    (tmp_path / "docs" / "new").touch()
    assert git_state(code)["dirty"] and git_state(numbers)["dirty"]
