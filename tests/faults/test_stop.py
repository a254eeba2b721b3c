"""Stopped from outside: an end within a stated time, an exit code, no process left, no secret written."""

import os
import shutil
import signal
import socket
import tempfile
from pathlib import Path

import psutil
import pytest
from training_job import lines

pytestmark = pytest.mark.engine

CANARY = "CANARY4711CANARY4711CANARY4711CANARY4711"
LEFT_S = 300.0  # Ray's agents outlive their node, for up to 90 s on a quiet machine


@pytest.fixture
def ray_folder():
    """Where Ray writes; a short path, because Unix sockets have short names."""
    folder = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def assert_nothing_left(run) -> None:
    _, left = psutil.wait_procs(run.seen.values(), timeout=LEFT_S)
    assert not left, [each.cmdline()[:3] for each in left]


def files_with(text: str, *folders: Path) -> list[Path]:
    files = [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    ]
    return [path for path in files if text.encode() in path.read_bytes()]


def test_sigterm(job, ray_folder):
    """The step under way is finished and saved. Meanwhile the folder has no room for a second run, nor has any file
    the key of W&B, which is in the environment."""
    env = {"WANDB_API_KEY": CANARY, "RAY_TMPDIR": str(ray_folder)}
    run = job("run.steps=500", "tracking.wandb=offline", "checkpoint.every=0", env=env)
    run.until(lambda: run.steps() >= 2)
    second = job("resume=auto", env=env)
    assert second.wait() == 2
    assert (
        f"in use by another run (host {socket.gethostname()}, pid {run.process.pid}" in run.text()
    )

    run.tree()
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 75, run.text()[-3000:]
    last = lines(run.folder)[-1]["step"]
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == [f"step_{last:06d}"]
    assert "SIGTERM; go on with resume=auto" in run.text()
    assert_nothing_left(run)
    assert not files_with(CANARY, run.folder.parent, ray_folder)


@pytest.mark.slow
@pytest.mark.parametrize("process", ["gcs_server", "ray::LearnerActor"])
def test_sigterm_while_ray_or_the_actors_start(job, process):
    """Nothing to save yet: it ends at once, without Ray's exit code or stack dump."""
    run = job()
    run.until(lambda: run.processes(process))
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 75, run.text()[-3000:]
    assert "epoll_wait" not in run.text() and "Traceback" not in run.text()
    assert_nothing_left(run)


@pytest.mark.slow
@pytest.mark.parametrize("everyone", [False, True], ids=["process group", "every process"])
def test_sigterm_to_more_than_the_driver(job, everyone):
    """`timeout` signals the process group, which Ray is not in: the step is saved. systemd signals every process:
    Ray ends, the step is given up, but the run still ends with a report and can go on."""
    run = job("run.steps=500", "checkpoint.every=0")
    run.until(lambda: run.steps() >= 2)
    tree = run.tree()
    if everyone:
        for process in tree:
            process.send_signal(signal.SIGTERM)
    else:
        os.killpg(run.process.pid, signal.SIGTERM)
    assert run.wait() == 75, run.text()[-3000:]  # Ray ends a driver without a head with 1
    assert "SIGTERM; go on with resume=auto" in run.text()
    assert (run.folder / "report.html").is_file()
    assert everyone or run.has("checkpoints/step_*")
    assert_nothing_left(run)


@pytest.mark.slow
def test_ctrl_c_twice(job):
    run = job("run.steps=500", "rollout.prompts_per_step=64", "rollout.group_size=16")
    run.until(lambda: run.steps() >= 1)
    run.tree()
    run.process.send_signal(signal.SIGINT)
    run.until(lambda: "Ctrl-C again to quit now" in run.text())
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130, run.text()[-3000:]
    assert "resume=auto" in run.text() and "Traceback" not in run.text()
    assert_nothing_left(run)


@pytest.mark.slow
def test_a_step_that_outlasts_the_deadline_is_given_up(job):
    """The engines are frozen, so the step does not end; its drawn part is lost, the run is not."""
    run = job("run.steps=500", "checkpoint.stop_within_s=5")
    run.until(lambda: run.steps() >= 4)
    for engine in run.actors("RolloutActor"):
        engine.suspend()
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 75, run.text()[-3000:]
    assert "given up" in run.text()
    assert_nothing_left(run)
