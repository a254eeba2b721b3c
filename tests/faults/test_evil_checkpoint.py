"""A run folder that somebody else has prepared: a checkpoint that would run a command is passed over or refused."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import pytest
from training_job import assert_same_run

from isentropic.controller.storage.checkpoints import write_manifest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def prepared(golden, tmp_path):
    """The golden run without its last checkpoint, and the newest one left with a payload for an index."""
    folder, called = tmp_path / "run", tmp_path / "called"
    shutil.copytree(golden, folder)
    shutil.rmtree(folder / "checkpoints" / "step_000005")
    newest = max((folder / "checkpoints").glob("step_*"))
    (newest / "learner" / ".metadata").write_bytes(pickle.dumps(Payload(called)))
    yield newest
    assert not called.exists(), "the payload was run"


def test_it_is_not_what_its_manifest_says(job, golden, prepared):
    """The hash gives it away: the run goes on from the checkpoint before it, or from the start."""
    run = job("resume=auto")
    assert run.wait() == 0, run.text()[-3000:]
    assert f"{prepared}/learner/.metadata is missing, cut short or changed" in " ".join(
        run.text().split()
    )
    assert_same_run(run.folder, golden)


def test_its_manifest_agrees(job, prepared):
    """The limits of the unpickler give it away: bad input, named."""
    manifest = json.loads((prepared / "manifest.json").read_text())
    index = (prepared / "learner" / ".metadata").read_bytes()
    manifest["files"]["learner/.metadata"] = {
        "bytes": len(index),
        "sha256": hashlib.sha256(index).hexdigest(),
    }
    # With the old digest the checkpoint would be passed over, and its index never opened.
    del manifest["digest"]
    write_manifest(prepared, manifest)
    run = job("resume=auto")
    assert run.wait() == 2, run.text()[-3000:]
    assert "which no checkpoint of ours holds" in run.text()


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "$(touch evil)"])
def test_a_name_that_would_leave_the_folder(job, name, tmp_path):
    run = job(f"run.name={json.dumps(name)}")
    assert run.wait() == 2, run.text()[-3000:]
    assert "run.name" in run.text()
    assert not run.folder.exists() and not list(tmp_path.rglob("*evil*"))
