"""A whole run whose learner has no room for a checkpoint: it costs a warning, and at the end a fault and a resume."""

import psutil
import pytest
from training_job import assert_same_run, lines

pytestmark = [pytest.mark.engine, pytest.mark.slow]

NO_ROOM = 50_000  # bytes that a file of the learner's may have: as on a disk that is full


def limit(run, size: int) -> None:
    ranks = run.actors("LearnerActor")
    assert ranks
    for rank in ranks:
        _, hard = rank.rlimit(psutil.RLIMIT_FSIZE)
        rank.rlimit(psutil.RLIMIT_FSIZE, (size, hard))


def test_in_the_middle(job, golden):
    """The checkpoints of steps 2 and 4 fail; with room again the last one is written, and nothing else differs."""
    run = job()
    run.until(lambda: run.steps() >= 1)
    limit(run, NO_ROOM)
    run.until(lambda: "the checkpoint of step 2 could not be written" in run.text())
    limit(run, psutil.RLIM_INFINITY)
    assert run.wait() == 0, run.text()[-3000:]
    assert "MiB are free" in run.text() and str(run.folder / "checkpoints") in run.text()
    assert "step_000002" not in [path.name for path in (run.folder / "checkpoints").iterdir()]
    assert_same_run(run.folder, golden)


def test_at_the_last_step(job, golden):
    run = job("checkpoint.every=0")
    run.until(lambda: run.steps() >= 1)
    limit(run, NO_ROOM)
    assert run.wait() == 1, run.text()[-3000:]
    assert "OSError" in run.text() and "Errno" in run.text()
    assert not list(run.folder.glob("checkpoints/*"))
    assert len(lines(run.folder)) == 6, "the work is in the ledger and the lines"

    drawn = {path: path.stat().st_mtime_ns for path in run.folder.glob("rollouts/*")}
    run = job("checkpoint.every=0", "resume=auto")
    assert run.wait() == 0, run.text()[-3000:]
    assert drawn == {path: path.stat().st_mtime_ns for path in run.folder.glob("rollouts/*")}, (
        "nothing is drawn again"
    )
    assert_same_run(run.folder, golden)
