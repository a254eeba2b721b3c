"""Killed at once with everything, whenever: the run goes on as if nothing had happened, on 1 or 2 rollout actors."""

import random
import time

import pytest
from training_job import assert_same_run, lines

pytestmark = pytest.mark.engine


def resume(job, run, actors, *overrides):
    return job(f"rollout.num_actors={actors}", "resume=auto", "resume.allow_changes=[rollout.num_actors]", *overrides)


def test_two_kills_and_other_actors_change_nothing(job, golden):
    """First in step 1, when only the ledger has it; then while the checkpoint of step 4 is written."""
    run = job("rollout.num_actors=2")
    run.until(lambda: run.has("rollouts/step_000001.parquet"))
    run.kill()
    drawn = (run.folder / "rollouts" / "step_000001.parquet").stat().st_mtime_ns

    run = resume(job, run, 1)
    run.until(lambda: run.has("checkpoints/.tmp-step_000004*"), every_s=0.001)
    run.kill()
    assert "step_000002" in [path.name for path in (run.folder / "checkpoints").iterdir()]

    run = resume(job, run, 2)
    assert run.wait() == 0, run.text()[-3000:]
    assert (run.folder / "rollouts" / "step_000001.parquet").stat().st_mtime_ns == drawn, "nothing is drawn twice"
    assert_same_run(run.folder, golden)
    assert [line["step"] for line in lines(run.folder)] == list(range(6))
    assert not list(run.folder.rglob(".tmp-*")), "what the killed ones were writing is gone"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("staleness", [0, 1])
def test_random_kills(job, golden, seed, staleness, request):
    """Up to three kills at random times, each resumed with another number of actors."""
    rng = random.Random(seed * 10 + staleness)
    overlap = [f"rollout.max_staleness={staleness}"]
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
