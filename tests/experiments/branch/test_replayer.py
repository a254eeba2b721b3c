"""A recorded step, trained again from the state before it, has the bits it had."""

import asyncio
from dataclasses import replace

import pytest

from isentropic.experiments.branch.learner import replay_learner
from isentropic.experiments.branch.replayer import NOT_REPLAYED, Replayer, walk_to
from isentropic.experiments.commands.replay import differences
from isentropic.experiments.run.recorded import RecordedRun, recorded_run
from isentropic.metrics.sinks.jsonl import plain


class NoCheckpoints(RecordedRun):
    """A run whose checkpoints were all removed."""

    def checkpoint_before(self, step):
        return None


def replayed(recorded, step, *, without_checkpoints=False):
    """(line, steps trained on the way, whether the learner's state is its checkpoint's)."""
    folder, prepared = recorded
    run = RecordedRun(folder)
    if without_checkpoints:
        run = NoCheckpoints(folder)

    async def go():
        async with replay_learner(
            run.config, prepared.model, exact=True, reference=False
        ) as learner:
            base = Replayer(run.config, learner, prepared)
            trained = await walk_to(run, base, step - 1, exact=True)
            line = plain(await base.report(await base.train(run.batch(step))))
            await learner.remember()
            checkpoint = RecordedRun(folder).checkpoint_before(step)
            same = None
            if checkpoint and checkpoint[1].step == step:
                await learner.load(checkpoint[0] / "learner")
                same = await learner.is_remembered()
            return line, trained, same

    return asyncio.run(go())


@pytest.mark.parametrize(
    ("step", "walked", "same"),
    [
        pytest.param(1, 0, None, id="from the start"),
        pytest.param(3, 0, None, id="from its own checkpoint"),
        pytest.param(
            4,
            1,
            True,
            id="rebuilt from the checkpoint of step 2; weights of the checkpoint of step 4",
        ),
    ],
)
def test_bit_for_bit(recorded, step, walked, same):
    line, trained, found = replayed(recorded, step)
    before = RecordedRun(recorded[0]).lines[step]

    assert (trained, found) == (walked, same)
    assert before["update/count"] > 0
    assert len(line) > 100
    assert differences(before, line) == {}


def test_rebuilt_from_the_start(recorded):
    line, trained, same = replayed(recorded, 5, without_checkpoints=True)

    assert (trained, same) == (4, True)
    assert differences(RecordedRun(recorded[0]).lines[5], line) == {}


def test_another_objective_shows(recorded):
    """The learner goes back to the state before the step, whatever was trained in between."""
    folder, prepared = recorded
    run = RecordedRun(folder)

    async def go():
        async with replay_learner(
            run.config, prepared.model, exact=True, reference=False
        ) as learner:
            base = Replayer(run.config, learner, prepared)
            await walk_to(run, base, 2, exact=True)
            await learner.remember()
            other = Replayer(replace(run.config, learner=fast), learner, prepared)
            other.follow(base)
            await other.configure()
            await learner.recall()
            changed = plain(await other.report(await other.train(run.batch(3))))
            await base.configure()
            await learner.recall()
            assert await learner.is_remembered()
            return changed, plain(await base.report(await base.train(run.batch(3))))

    fast = replace(run.config.learner, lr=0.05)
    changed, again = asyncio.run(go())
    assert differences(run.lines[3], again) == {}
    assert changed["learning_rate"] == 0.05
    assert changed["entropy/mean"] == again["entropy/mean"]  # before the updates
    assert changed["entropy/measured_change"] != again["entropy/measured_change"]


def test_what_is_no_run(tmp_path, recorded):
    with pytest.raises(ValueError, match="no such folder"):
        recorded_run(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="is no run"):
        recorded_run(str(tmp_path))
    with pytest.raises(ValueError, match="recorded no step 9: its ledger has 1 to 5"):
        RecordedRun(recorded[0]).batch(9)


def test_only_what_needs_an_engine_is_left_out(recorded):
    line, _, _ = replayed(recorded, 3)
    absent = RecordedRun(recorded[0]).lines[3].keys() - line.keys()
    assert all(key.startswith(NOT_REPLAYED) for key in absent)


def test_a_branch_with_other_updates_goes_on_in_the_schedule_of_the_run(recorded):
    """With half of the updates per step the schedule would end half way, at a rate of 0."""

    class Learner:
        async def configure(self, **settings):
            self.total = settings["total_updates"]

    folder, prepared = recorded
    run, learner = RecordedRun(folder), Learner()
    config = run.config
    fewer = replace(config.learner, updates_per_rollout=config.learner.updates_per_rollout * 2)
    base = Replayer(config, learner, prepared)
    asyncio.run(base.configure())
    total = learner.total
    other = Replayer(replace(config, learner=fewer), learner, prepared)
    asyncio.run(other.configure())
    assert learner.total == 2 * total
    other.follow(base)
    asyncio.run(other.configure())
    assert learner.total == total == config.run.steps * config.learner.updates_per_rollout
