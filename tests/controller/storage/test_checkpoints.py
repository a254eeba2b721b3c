"""A checkpoint is loaded whole or not at all; damage sends the run one checkpoint back, by name."""

import json

import numpy as np
import pytest

from isentropic.controller.storage import checkpoints
from isentropic.controller.storage.checkpoints import CheckpointError, Manifest
from isentropic.durable import file_entry

STATE = {"buffer": {"tokens": np.arange(3), "kept": [1, 2.5, None, "x"]}, "on": True}

MANIFEST = Manifest(step=20, policy_version=160, next_draw=1280, about={}, files={})


def make(folder, step):
    temporary = checkpoints.begin(folder, step)
    (temporary / "learner" / "weights.bin").write_bytes(bytes(range(100)))
    manifest = Manifest(step=step, policy_version=8 * step, next_draw=64 * step, about={}, files={})
    return checkpoints.commit(folder, temporary, manifest, STATE)


def test_round_trip(tmp_path):
    made = make(tmp_path, 20)
    path, manifest = checkpoints.latest(tmp_path, pytest.fail)
    state = checkpoints.read_state(path)

    assert path == made == tmp_path / "step_000020"
    assert (manifest.step, manifest.policy_version, manifest.next_draw) == (20, 160, 1280)
    np.testing.assert_array_equal(state["buffer"]["tokens"], np.arange(3))
    assert state["buffer"]["kept"] == [1, 2.5, None, "x"] and state["on"] is True


def flip_a_bit(path):
    data = bytearray((path / "learner" / "weights.bin").read_bytes())
    data[50] ^= 1
    (path / "learner" / "weights.bin").write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(flip_a_bit, id="one bit"),
        pytest.param(lambda path: (path / "learner" / "weights.bin").unlink(), id="a file gone"),
        pytest.param(lambda path: (path / "controller.npz").write_bytes(b"short"), id="cut short"),
        pytest.param(lambda path: (path / "manifest.json").unlink(), id="no manifest"),
        pytest.param(lambda path: (path / "manifest.json").write_text("{"), id="torn manifest"),
    ],
)
def test_damage_falls_back_one(tmp_path, damage):
    make(tmp_path, 20)
    damage(make(tmp_path, 40))
    warnings = []
    path, _ = checkpoints.latest(tmp_path, warnings.append)

    assert path.name == "step_000020"
    assert len(warnings) == 1 and "step_000040" in warnings[0] and "Going back" in warnings[0]


def test_what_a_rank_hashed_is_not_read_again(tmp_path):
    """The hash of the one who wrote stands in the manifest: damage on the way here is seen."""
    temporary = checkpoints.begin(tmp_path, 20)
    written = temporary / "learner" / "weights.bin"
    written.write_bytes(b"as written")
    entry = file_entry(written)
    written.write_bytes(b"as_written")
    path = checkpoints.commit(tmp_path, temporary, MANIFEST, STATE, {"learner/weights.bin": entry})

    with pytest.raises(CheckpointError, match=r"weights\.bin is missing, cut short or changed"):
        checkpoints.verify(path)


@pytest.mark.parametrize(("arrived", "found"), [(None, "none"), (b"as", "2")])
def test_a_file_that_a_rank_wrote_elsewhere_is_missed(tmp_path, arrived, found):
    temporary = checkpoints.begin(tmp_path, 20)
    if arrived is not None:
        (temporary / "learner" / "weights.bin").write_bytes(arrived)
    entry = {"bytes": 10, "sha256": "0" * 64}

    with pytest.raises(OSError, match=rf"here are {found}. Do all nodes share run.dir"):
        checkpoints.commit(tmp_path, temporary, MANIFEST, STATE, {"learner/weights.bin": entry})
    assert checkpoints.listed(tmp_path) == {}


def test_a_torn_write_is_never_seen(tmp_path):
    (checkpoints.begin(tmp_path, 20) / "learner" / "weights.bin").write_bytes(b"half")
    assert checkpoints.latest(tmp_path, pytest.fail) is None


def test_the_manifest_cannot_name_files_outside(tmp_path):
    path = make(tmp_path, 20)
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../secret"] = {"bytes": 1, "sha256": ""}
    del manifest["digest"]
    checkpoints.write_manifest(path, manifest)
    with pytest.raises(CheckpointError, match="outside the checkpoint"):
        checkpoints.verify(path)


@pytest.mark.parametrize("key", ["step", "policy_version", "next_draw"])
def test_a_manifest_protects_itself(tmp_path, key):
    """One bit of next_draw would skip draws, or draw them twice."""
    make(tmp_path, 20)
    path = make(tmp_path, 40) / "manifest.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {key: values[key] ^ 1}))
    warnings = []

    assert checkpoints.latest(tmp_path, warnings.append)[1].step == 20
    assert "digest" in warnings[0]


def test_a_checkpoint_under_another_steps_name_is_not_that_step(tmp_path):
    make(tmp_path, 20).rename(tmp_path / "step_000030")
    with pytest.raises(CheckpointError, match="holds the state after step 20"):
        checkpoints.verify(tmp_path / "step_000030")


def test_a_manifest_without_a_digest_is_of_an_older_version(tmp_path):
    path = make(tmp_path, 20)
    values = json.loads((path / "manifest.json").read_text())
    del values["digest"]
    (path / "manifest.json").write_text(json.dumps(values))
    assert checkpoints.verify(path).step == 20


def test_a_damaged_checkpoint_takes_no_place_among_the_newest(tmp_path):
    for step in (10, 20, 30):
        make(tmp_path, step)
    flip_a_bit(make(tmp_path, 40))
    checkpoints.prune(tmp_path, keep_last=2, keep=set())

    assert list(checkpoints.listed(tmp_path)) == [20, 30, 40]
    assert checkpoints.latest(tmp_path, [].append)[1].step == 30


def test_damage_after_a_checkpoint_was_verified_is_seen(tmp_path):
    verified = {}
    for step in (10, 20, 30):
        make(tmp_path, step)
    checkpoints.prune(tmp_path, keep_last=3, keep=set(), verified=verified)
    (tmp_path / "step_000030" / "controller.npz").write_bytes(b"short")
    checkpoints.prune(tmp_path, keep_last=1, keep=set(), verified=verified)

    assert list(checkpoints.listed(tmp_path)) == [20, 30]


def test_other_folders_stay_and_order_is_by_number(tmp_path):
    """A copy that somebody made is neither loaded nor removed; a million steps come after 999,999."""
    for step in (999_998, 999_999, 1_000_000):
        make(tmp_path, step)
    (tmp_path / "step_999999_before_the_change").mkdir()
    checkpoints.prune(tmp_path, keep_last=2, keep=set())

    assert list(checkpoints.listed(tmp_path)) == [999_999, 1_000_000]
    assert (tmp_path / "step_999999_before_the_change").is_dir()
    assert checkpoints.latest(tmp_path, pytest.fail)[1].step == 1_000_000


def test_prune_keeps_the_newest_and_the_best(tmp_path):
    for step in (10, 20, 30, 40):
        make(tmp_path, step)
    checkpoints.prune(tmp_path, keep_last=2, keep={10})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_000010",
        "step_000030",
        "step_000040",
    ]
