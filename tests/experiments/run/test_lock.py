"""One run at a time in a folder; the lock of a dead run is nobody's."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from isentropic.experiments.run.lock import LOCK, run_lock

ROOT = Path(__file__).resolve().parents[3]
HOLDER = """
import sys, time
from pathlib import Path
from isentropic.experiments.run.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": str(ROOT / "platform")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_is_told_who_has_it_and_a_dead_holder_has_nothing(tmp_path, holder):
    told = rf"in use by another run \(host \S+, pid {holder.pid}, since \d{{4}}-"
    with pytest.raises(ValueError, match=told), run_lock(tmp_path / "run"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with run_lock(tmp_path / "run"):
        (tmp_path / "run" / "config.yaml").touch()
    assert (tmp_path / "run" / LOCK).read_text() == "{}"


def test_a_start_that_is_refused_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="bad data"), run_lock(tmp_path / "runs" / "run"):
        raise ValueError("bad data")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_owner_file_is_no_owner(tmp_path):
    (tmp_path / LOCK).write_bytes(b"\xff{not json")
    with (
        run_lock(tmp_path),
        pytest.raises(ValueError, match="in use by another run"),
        run_lock(tmp_path),
    ):
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(ValueError, match=r"Choose another run\.dir"),
        run_lock(tmp_path / "file" / "run"),
    ):
        pass
