"""A rank dies or freezes: the run goes on from its last checkpoint, with the same engines and the same result."""

import os
import signal

import pytest
from training_job import assert_same_run

pytestmark = pytest.mark.engine

SETTINGS = ("rollout.num_actors=1", "learner.timeout_s=30")


def strike(job, number: signal.Signals, rank: int, lines: int, *overrides: str):
    """Starts a run, hurts a rank when metrics.jsonl has so many lines, and waits for the end."""
    run = job(*SETTINGS, *overrides)
    run.until(lambda: run.steps() >= lines)
    engines = {each.pid for each in run.actors("RolloutActor")}
    run.ranks = [each.pid for each in run.actors("LearnerActor")]
    os.kill(run.ranks[rank], number)
    run.until(lambda: run.steps() >= 6 or "started again" in run.text())
    run.engines_stayed = engines == {each.pid for each in run.actors("RolloutActor")}
    assert run.wait() == 0, run.text()[-3000:]
    assert "learner is started again (1 of 5), from the last checkpoint" in run.text()
    return run


@pytest.mark.slow  # make test has it as a part of test_exact_resume
def test_killed(job, golden):
    """Rank 1 dies after the checkpoint of step 2, rank 0 then fails in a collective: rank 1 is named."""
    run = strike(job, signal.SIGKILL, rank=1, lines=4)
    assert run.engines_stayed
    assert "learner rank" in run.text() and "died" in run.text()
    assert_same_run(run.folder, golden)


@pytest.mark.slow
def test_killed_before_the_first_checkpoint(job, golden):
    """Rank 0, who also holds the weights that engines load: back to the start, nothing drawn twice."""
    run = strike(job, signal.SIGKILL, rank=0, lines=2)
    assert run.engines_stayed
    assert_same_run(run.folder, golden)


@pytest.mark.slow
def test_frozen(job, golden):
    """A stopped process answers nothing and closes nothing: its deadline finds it."""
    run = strike(job, signal.SIGSTOP, rank=0, lines=4)
    assert run.engines_stayed
    assert_same_run(run.folder, golden)


@pytest.mark.slow
def test_frozen_in_a_collective(job, golden):
    """The deadline of a call is far away: the other rank's deadline in the collective finds it."""
    run = strike(
        job,
        signal.SIGSTOP,
        1,
        4,
        "learner.timeout_s=600",
        "learner.collective_timeout_s=15",
    )
    assert "learner rank 1 hangs: learner rank 0 waited for it in vain" in run.text()
    assert_same_run(run.folder, golden)


@pytest.mark.slow
def test_a_budget_of_restarts(job):
    run = job(*SETTINGS, "cluster.max_learner_restarts=0")
    run.until(lambda: run.steps() >= 2)
    os.kill(run.actors("LearnerActor")[0].pid, signal.SIGKILL)
    assert run.wait() == 1
    assert "cluster.max_learner_restarts=0" in run.text() and "resume=auto" in run.text()
