"""Rollouts in segments on real engines: 1 or 2 of them, killed in the middle of a phase or not, the same bits."""

import pyarrow.parquet as pq
import pytest
from training_job import assert_same_run, rollouts

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
]  # minutes; fakes guard the same in the fast suite

IN_SEGMENTS = ["rollout.segment_tokens=5", "run.steps=4", "evaluation.every=0"]


def versions(rows):
    """How many weights wrote each rollout."""
    return [len({segment["policy_version"] for segment in row["segments"]}) for row in rows]


def test_two_engines_killed_in_the_middle_of_a_phase_change_nothing(job):
    whole = job(*IN_SEGMENTS, folder="whole")
    assert whole.wait() == 0, whole.text()[-3000:]
    rows = [row for step in rollouts(whole.folder).values() for row in step]
    assert len(rows) == 4 * 4 * 4
    assert max(versions(rows)) > 1, "some were to be carried over an update"
    assert "in flight when the run ended" in whole.text()

    two = [*IN_SEGMENTS, "rollout.num_actors=2", "resume=auto"]
    run = job(*two)
    # The line of step 2 is written while the engines draw step 3.
    run.until(lambda: run.has("checkpoints/step_000002") and run.steps() > 2, every_s=0.001)
    run.kill()
    left = pq.read_table(run.folder / "carried" / "step_000002.parquet").to_pylist()
    assert "unfinished" in {row["finish_reason"] for row in left}
    assert not run.has("rollouts/step_000004.parquet")

    run = job(*two)
    assert run.wait() == 0, run.text()[-3000:]
    assert_same_run(run.folder, whole.folder)
