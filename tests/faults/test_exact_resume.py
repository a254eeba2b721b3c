"""Killed at once with everything, whenever: the run goes on as if nothing had happened, on 1 or 2 rollout actors."""

import os
import random
import re
import signal
import time

import pytest
from training_job import assert_same_run, entropy_of, lines, wandb_points

pytestmark = pytest.mark.engine


def resume(job, run, actors, *overrides):
    changes = "resume.allow_changes=[rollout.num_actors,learner.timeout_s]"
    return job(f"rollout.num_actors={actors}", "resume=auto", changes, *overrides)


def test_two_kills_a_lost_rank_and_another_actor_change_nothing(job, golden):
    """All is killed in step 1, when only the ledger has it, and while the checkpoint of step 4 is written; then a rank
    alone, which the same engines outlive. Starting takes most of the time, so that one run has it all."""
    run = job()
    run.until(lambda: run.has("rollouts/step_000001.parquet"))
    run.kill()
    drawn = (run.folder / "rollouts" / "step_000001.parquet").stat().st_mtime_ns

    run = resume(job, run, 1)
    run.until(lambda: run.has("rollouts/step_000003.parquet"))  # the start is watched at leisure
    run.until(lambda: run.has("checkpoints/.tmp-step_000004*"), every_s=0.001)
    run.kill()
    assert [path.name for path in (run.folder / "checkpoints").glob("step_*")] == ["step_000002"]

    run = resume(job, run, 2, "learner.timeout_s=30")
    run.until(
        lambda: "after step 2" in run.text() and run.steps() >= 4
    )  # of its own: the lines were cut back
    engines = {each.pid for each in run.actors("RolloutActor")}
    os.kill(run.actors("LearnerActor")[1].pid, signal.SIGKILL)
    run.until(lambda: "learner is started again (1 of 5), from the last checkpoint" in run.text())
    # Pids need not come in the order of ranks. The other rank fails in a collective, with another
    # cause, and is not the one to name.
    named = re.findall(r"learner rank [01] died .*", run.text())
    assert len(named) == 1 and "its worker process has died" in named[0]
    assert engines == {each.pid for each in run.actors("RolloutActor")}
    assert run.wait() == 0, run.text()[-3000:]
    assert (run.folder / "rollouts" / "step_000001.parquet").stat().st_mtime_ns == drawn, (
        "nothing is drawn twice"
    )
    assert_same_run(run.folder, golden)
    assert [line["step"] for line in lines(run.folder)] == list(range(6))
    assert not list(run.folder.rglob(".tmp-*")), "what the killed ones were writing is gone"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("staleness", [0, 1])
def test_random_kills(job, golden, seed, staleness, request):
    """Up to three kills at random times, each resumed with another number of actors. W&B has every step once, too."""
    rng = random.Random(seed * 10 + staleness)
    overlap = [f"rollout.max_staleness={staleness}", "tracking.wandb=offline"]
    wanted = golden if staleness == 0 else request.getfixturevalue("golden_overlapped")
    for _ in range(rng.randint(1, 3)):
        run = resume(job, None, rng.choice([1, 2]), *overlap)
        step = rng.randint(0, 5)
        run.until(lambda step=step, run=run: run.steps() >= step or run.process.poll() is not None)
        time.sleep(rng.uniform(0, 1.0))
        if run.process.poll() is None:
            run.kill()
    run = resume(job, None, rng.choice([1, 2]), *overlap)
    assert run.wait() == 0, run.text()[-3000:]
    assert_same_run(run.folder, wanted)
    ids, points = wandb_points(run.folder)
    assert len(ids) == 1
    assert points == [(line["step"], entropy_of(line)) for line in lines(run.folder)]
