"""A full disk, a lost learner: what the loop does on fakes, to the last number."""

import asyncio
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from isentropic.controller.protocols import LearnerLost
from isentropic.controller.reporting import Reporter
from isentropic.controller.storage import checkpoints


def test_a_full_disk_costs_a_checkpoint_and_no_more(fake_run):
    """No room at step 2: the run says so, goes on, and saves at step 4."""
    run, said = fake_run(), []
    save = run.learner.end_save

    async def full():
        folder, _ = run.learner._saving
        if folder.parent.name == ".tmp-step_000002":
            (folder / "half").write_bytes(b"x" * 100)
            raise OSError(28, "No space left on device")
        return await save()

    run.learner.end_save = full
    asyncio.run(run.controller(warn=said.append).run())

    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == [
        "step_000004",
        "step_000006",
    ]
    assert len(said) == 1
    for part in (
        "step 2",
        str(run.folder / "checkpoints"),
        "No space left",
        "MiB are free",
        "a resume goes back",
    ):
        assert part in said[0]


def test_a_checkpoint_that_cannot_fit_is_not_begun(fake_run, monkeypatch):
    """It would fill the disk, and the next rollouts had no room."""
    run, said, begun = fake_run(), [], []
    begin_save = run.learner.begin_save

    async def begin(folder):
        begun.append(folder.parent.name)
        await begin_save(folder)

    def almost_full(folder):
        return SimpleNamespace(free=1 if (folder / ".tmp-step_000004").exists() else 2**40)

    run.learner.begin_save = begin
    monkeypatch.setattr("isentropic.controller.storage.saving.shutil.disk_usage", almost_full)
    asyncio.run(run.controller(warn=said.append).run())

    assert begun == [".tmp-step_000002", ".tmp-step_000006"]
    assert len(said) == 1
    assert "step 4" in said[0]
    assert "more bytes than are free" in said[0]


def test_a_checkpoint_is_written_while_the_next_step_runs(fake_run):
    """It holds the state of its own step all the same: a run that goes on from it does the same."""
    whole, overlapped, seen = fake_run(folder="whole").run(), fake_run("checkpoint.keep_last=5"), []
    end_save = overlapped.learner.end_save

    async def slow():
        step = max(overlapped.lines.lines)
        while step < 6 and step + 1 not in overlapped.lines.lines:
            await asyncio.sleep(0.001)
        seen.append(max(overlapped.lines.lines))
        return await end_save()

    overlapped.learner.end_save = slow
    overlapped.run()
    assert seen == [3, 5, 6]
    assert overlapped.stable == whole.stable

    for step in (4, 6):
        shutil.rmtree(overlapped.folder / "checkpoints" / f"step_{step:06d}")
    again = fake_run(folder=overlapped.folder.name)
    asyncio.run(
        again.controller().run(checkpoints.latest(again.folder / "checkpoints", pytest.fail))
    )
    assert again.stable == {step: line for step, line in whole.stable.items() if step > 2}


def test_the_best_checkpoint_stays_if_it_is_still_being_written(fake_run, monkeypatch):
    """When step 3 is saved, the checkpoint of step 2, the best, is not complete yet."""
    run = fake_run("checkpoint.every=1", "checkpoint.keep_last=1", folder="best")
    monkeypatch.setattr(Reporter, "best_steps", lambda reporter, count, among: {2} & set(among))
    end_save = run.learner.end_save

    async def slow():
        step = max(run.lines.lines)
        while step < 6 and step + 1 not in run.lines.lines:
            await asyncio.sleep(0.001)
        return await end_save()

    run.learner.end_save = slow
    run.run()
    assert list(checkpoints.listed(run.folder / "checkpoints")) == [2, 6]


def test_a_full_disk_at_the_end_is_a_fault(fake_run):
    run = fake_run("checkpoint.every=0")

    async def full():
        raise OSError(28, "No space left on device")

    run.learner.end_save = full
    with pytest.raises(OSError, match="No space left"):
        run.run()
    # Its result is in the logs, its rollouts are in the ledger: resume=auto saves it.
    assert max(run.lines.lines) == 6


@pytest.mark.parametrize("staleness", [0, 1, 2])
@pytest.mark.parametrize("method", ["score", "update", "publish", "begin_save", "end_save"])
def test_a_lost_learner_draws_nothing_twice(fake_run, staleness, method):
    """The learner is lost in step 4; a new one goes on from step 2, with the same engines."""
    overrides = (f"rollout.max_staleness={staleness}",)
    whole = fake_run(*overrides, folder="whole").run()
    lost = fake_run(*overrides, folder="lost")
    fine = getattr(lost.learner, method)

    async def dies(*arguments, **named):
        if 3 in lost.lines.lines:
            raise LearnerLost("learner rank 1 died")
        return await fine(*arguments, **named)

    setattr(lost.learner, method, dies)
    with pytest.raises(LearnerLost):
        lost.run()
    lost.learner = type(lost.learner)()
    asyncio.run(lost.controller().run(checkpoints.latest(lost.folder / "checkpoints", print)))

    assert lost.stable == whole.stable
    np.testing.assert_array_equal(lost.learner.logits, whole.learner.logits)
    trained = [key for key, _ in lost.pool.drawn if key.split == "train"]
    assert len(trained) == len(set(trained))
