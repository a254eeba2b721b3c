"""A run that goes back to step 5 leaves what is behind it where nobody takes it for its own."""

import pytest

from isentropic.controller.storage import checkpoints
from isentropic.controller.storage.aside import (
    drop_reached,
    set_checkpoints_aside,
    set_steps_aside,
)
from isentropic.controller.storage.checkpoints import Manifest


def save(run, step, keep_last=2):
    folder = run / "checkpoints"
    folder.mkdir(exist_ok=True)
    manifest = Manifest(step=step, policy_version=0, next_draw=0, about={}, files={})
    checkpoints.commit(folder, checkpoints.begin(folder, step), manifest, {})
    checkpoints.prune(folder, keep_last, keep=set())


def saved(run):
    return list(checkpoints.listed(run / "checkpoints"))


def names(run):
    paths = run.glob("set_aside/**/step_*")
    return sorted(str(path.relative_to(run / "set_aside")) for path in paths)


def test_checkpoints_that_were_left_behind_take_no_place_of_new_ones(tmp_path):
    """The run had 55 and 60, and goes on from the start: without this, each new one is removed."""
    for step in (55, 60):
        save(tmp_path, step)
    assert set_checkpoints_aside(tmp_path, after=0) == [55, 60]
    for step in (5, 10, 15):
        save(tmp_path, step)
    assert saved(tmp_path) == [10, 15]
    assert set_checkpoints_aside(tmp_path, after=15) == []


def test_they_go_when_the_run_has_saved_their_step_again(tmp_path):
    for step in (55, 60):
        save(tmp_path, step)
    set_checkpoints_aside(tmp_path, after=0)
    drop_reached(tmp_path, step=54)
    assert names(tmp_path) == ["1/checkpoints/step_000055", "1/checkpoints/step_000060"]
    drop_reached(tmp_path, step=55)
    assert names(tmp_path) == ["1/checkpoints/step_000060"]


@pytest.mark.parametrize("drawn", [5, 6])
def test_files_of_steps_that_are_drawn_again(drawn, tmp_path):
    """Step 6 stays if the weights that drew it are older than the checkpoint of step 5."""
    for folder in ("rollouts", "carried", "trained", "attribution", "evaluations"):
        (tmp_path / folder).mkdir()
        for step in range(4, 8):
            (tmp_path / folder / f"step_{step:06d}.parquet").touch()
    assert set_steps_aside(tmp_path, trained=5, drawn=drawn) == list(range(drawn + 1, 8))

    def left(folder):
        return [int(path.stem[-1]) for path in sorted((tmp_path / folder).iterdir())]

    assert left("rollouts") == left("carried") == list(range(4, drawn + 1))
    assert left("trained") == left("attribution") == left("evaluations") == [4, 5]
    assert f"1/rollouts/step_{drawn + 1:06d}.parquet" in names(tmp_path)
    assert set_steps_aside(tmp_path, trained=5, drawn=drawn) == []
    (tmp_path / "rollouts" / "step_000007.parquet").touch()
    set_steps_aside(tmp_path, trained=5, drawn=drawn)
    assert "2/rollouts/step_000007.parquet" in names(tmp_path)
