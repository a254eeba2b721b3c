"""Held-out answers: recorded before they are reported, drawn beside the next step, same numbers."""

import asyncio
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from isentropic.controller.protocols import LearnerLost
from isentropic.controller.reporting import Reporter
from isentropic.controller.storage.checkpoints import latest, read_state
from isentropic.controller.storage.ledger import FOLDERS, ledger_path, read_batch
from isentropic.metrics.entropy import START_ENTROPY, entropy_metrics
from isentropic.metrics.evaluation import evaluation_metrics
from isentropic.tasks.grading.outcome import Unchecked

ALARM = (  # on the first evaluation after the start
    "+alarms.rules.held_out={metric: eval/avg_at_k, kind: below, value: 2, baseline: none, window: 1, "
    "ceiling: null, patience: 1, level: warning, action: stop, unit: share}"
)
EVALUATED = (0, 3, 6)  # evaluation.every=3, run.steps=6


def recorded(run, split, step):
    return read_batch(run.folder / FOLDERS[split], step)


def test_evaluations_are_recorded(fake_run):
    run = fake_run("evaluation.samples=2").run()
    folder = run.folder / "evaluations"

    assert sorted(path.stem for path in folder.glob("*.parquet")) == [
        f"step_{step:06d}" for step in EVALUATED
    ]
    for step in EVALUATED:
        batch = read_batch(folder, step)
        line = run.lines.lines[step]
        assert batch.policy_version == line["eval/policy_version"]
        assert len(batch.rollouts) == 2 * 2  # prompts, samples
        assert {rollout.key.split for rollout in batch.rollouts} == {"eval"}
        right = [rollout.is_right for rollout in batch.rollouts]
        assert np.mean(right) == pytest.approx(line["eval/avg_at_k"])
        rows = pq.read_table(ledger_path(folder, step)).to_pylist()
        assert all(row["reward"] == float(row["response"][0].count("1") >= 2) for row in rows)


def test_a_run_without_evaluations_records_the_start_only(fake_run):
    run = fake_run("evaluation.every=0").run()
    files = sorted((run.folder / "evaluations").rglob("*.parquet"))
    assert files == [ledger_path(run.folder / "evaluations" / "start", 0)]


def test_the_record_gives_the_same_metrics_to_the_bit(fake_run):
    run = fake_run().run()
    for step in EVALUATED:
        rollouts = {run.config.task.name: recorded(run, "eval", step).rollouts}
        line = run.lines.lines[step]
        again = evaluation_metrics(rollouts, run.config.evaluation.samples)
        others = {START_ENTROPY, "eval/policy_version"}
        assert again == {
            key: line[key] for key in line if key.startswith("eval/") and key not in others
        }
        assert len(again) == 6

    # The entropy is of the tokens of one answer each, under the weights of the start.
    start = recorded(run, "start", 0).rollouts
    scores = asyncio.run(fake_run(folder="scored").trainer().score_rollouts(start))
    assert [rollout.key.split for rollout in start] == ["start"] * 2
    assert entropy_metrics(start, scores)["entropy/mean"] == run.lines.lines[0][START_ENTROPY]


@pytest.mark.parametrize("staleness", [0, 1])
def test_answers_are_on_disk_before_their_line(fake_run, staleness):
    run, seen = fake_run(f"rollout.max_staleness={staleness}"), []
    write = run.lines.log

    def log(step, metrics):
        if "eval/avg_at_k" in metrics:
            seen.append(recorded(run, "eval", step).step)
            assert step or recorded(run, "start", 0)
        write(step, metrics)

    run.lines.log = log
    run.run()
    assert tuple(seen) == EVALUATED


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_resume_writes_the_same_answers_and_needs_none(fake_run, staleness):
    """The run of an older version has no record of the evaluation that it trains again."""
    name = f"rollout.max_staleness={staleness}"
    whole, killed = fake_run(name, folder="whole").run(), fake_run(name, folder="killed")
    killed.lines.log = dying(killed, at=4)
    with pytest.raises(InterruptedError):
        killed.run()
    path = ledger_path(killed.folder / "evaluations", 3)
    before = path.read_bytes()
    for file in (killed.folder / "evaluations").rglob("*.parquet"):
        file.unlink()

    resumed = fake_run(name, folder="killed").run(resume=True)

    assert min(resumed.lines.lines) == 3, "it goes on from the checkpoint of step 2"
    assert path.read_bytes() == before
    assert killed.stable | resumed.stable == whole.stable


def dying(run, at):
    write = run.lines.log

    def log(step, metrics):
        if step == at:
            raise InterruptedError
        write(step, metrics)

    return log


@pytest.mark.parametrize(
    ("override", "at_once"),
    [
        pytest.param("rollout.max_staleness=0", True, id="the loop waits for both"),
        pytest.param("rollout.max_staleness=1", True, id="the loop trains meanwhile"),
        pytest.param("cluster.placement=shared", False, id="it has the GPUs in between"),
    ],
)
def test_a_step_is_drawn_beside_the_evaluation_of_its_weights(override, at_once, fake_run, fakes):
    beside, now = set(), []

    class Pool(fakes["pool"]):
        async def generate(self, requests):
            split = requests[0].key.split
            if not split.startswith("probe"):  # drawn beside whatever comes first
                now.append(split)
                beside.add(frozenset(now))
            async for completions in super().generate(requests):
                yield completions
                # Each draw takes a while: those that may overlap do.
                for _ in range(20):
                    await asyncio.sleep(0)
            if split in now:
                now.remove(split)

    fake_run(override, pool=Pool()).run()
    assert {frozenset(["eval"]), frozenset(["train"])} <= beside
    assert (frozenset(["eval", "train"]) in beside) == at_once
    assert any(len(splits) > 1 for splits in beside) == at_once


def late_pool(fakes, learner, error=None):
    """Answers after step 3 come only once step 4 has made its updates; or `error` comes."""

    class Pool(fakes["pool"]):
        async def generate(self, requests):
            version = self.weights.policy_version
            if requests[0].key.split == "eval" and 0 < version < 10:
                while learner.version == version:
                    await asyncio.sleep(0)
                if error is not None:
                    await asyncio.sleep(0.3)  # the loop waits for them by then
                    raise error("engine 0 is gone")
            async for completions in super().generate(requests):
                yield completions

    return Pool()


@pytest.mark.parametrize("staleness", [1, 2])
@pytest.mark.parametrize("checkpoints", [2, 3], ids=["of another step", "of the evaluated step"])
def test_off_policy_the_next_step_trains_while_weights_are_evaluated(
    staleness, checkpoints, fake_run, fakes
):
    """The answers after step 3 come only once step 4 has made its updates."""
    learner = fakes["learner"]()
    overrides = (f"rollout.max_staleness={staleness}", f"checkpoint.every={checkpoints}")
    run = fake_run(*overrides, folder="slow", learner=learner, pool=late_pool(fakes, learner))
    asyncio.run(asyncio.wait_for(run.controller().run(), 30))

    assert list(run.lines.lines) == list(range(7)), "lines come in the order of the steps"
    assert run.lines.lines[3]["eval/policy_version"] in range(4, 7)
    assert run.stable == fake_run(*overrides, folder="quick").run().stable


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_checkpoint_of_an_evaluated_step_knows_its_evaluation(staleness, fake_run):
    """It is complete only with its line; a run that goes on from it ends like one that was whole."""
    overrides = (f"rollout.max_staleness={staleness}", "checkpoint.every=3")
    whole = fake_run(*overrides, folder="whole").run()
    killed = fake_run(*overrides, folder="killed")
    killed.lines.log = dying(killed, at=5)
    with pytest.raises(InterruptedError):
        killed.run()

    checkpoint, manifest = latest(killed.folder / "checkpoints", print)
    assert manifest.step == 3
    best = read_state(checkpoint)["reporter"]["best"]
    assert [step for _, step in best] == [0, 3]
    resumed = fake_run(*overrides, folder="killed").run(resume=True)
    assert killed.stable | resumed.stable == whole.stable


def test_a_run_killed_before_the_line_of_an_evaluated_step_has_no_checkpoint_of_it(fake_run):
    overrides = ("rollout.max_staleness=1", "checkpoint.every=3")
    killed = fake_run(*overrides)
    killed.lines.log = dying(killed, at=3)
    with pytest.raises(InterruptedError):
        asyncio.run(asyncio.wait_for(killed.controller().run(), 30))
    assert killed.learner.version > max(killed.pool.loads), "step 4 was trained by then"
    assert latest(killed.folder / "checkpoints", print) is None


@pytest.mark.parametrize("error", [LearnerLost, RuntimeError])
def test_a_fault_in_the_next_step_leaves_an_evaluated_step_its_line_and_checkpoint(error, fake_run):
    """Step 4 fails in its updates, when the answers after step 3 are on disk."""
    overrides = ("rollout.max_staleness=1", "checkpoint.every=3")
    run = fake_run(*overrides, folder="fails")
    update = run.learner.update

    async def fails(batches):
        if batches[0].step == 4:
            await until(ledger_path(run.folder / FOLDERS["eval"], 3).is_file)
            raise error("step 4")
        return await update(batches)

    run.learner.update = fails
    with pytest.raises(error, match="step 4"):
        asyncio.run(asyncio.wait_for(run.controller().run(), 30))
    assert list(run.lines.lines) == [0, 1, 2, 3]
    assert latest(run.folder / "checkpoints", print)[1].step == 3

    run.learner = type(run.learner)()
    resumed = fake_run(*overrides, folder="fails").run(resume=True)
    assert run.stable | resumed.stable == fake_run(*overrides, folder="whole").run().stable


def test_engines_that_go_after_an_evaluation_leave_its_step_its_line(fake_run, fakes):
    """Step 4 trains on; it learns that they are gone when it asks for the answers after step 3."""

    class Pool(fakes["pool"]):
        evaluated, gone = 0, False

        async def generate(self, requests):
            version = self.weights.policy_version
            if requests[0].key.split == "eval":
                self.evaluated = version
            elif requests[0].key.split == "train" and 0 < version == self.evaluated:
                await until(ledger_path(run.folder / FOLDERS["eval"], 3).is_file)
                self.gone = True
                raise RuntimeError("engine 0 is gone")
            async for completions in super().generate(requests):
                yield completions

    run = fake_run("rollout.max_staleness=1", "checkpoint.every=3", pool=Pool())
    update = run.learner.update

    async def slow(batches):
        if batches[0].step == 4:
            await until(lambda: run.pool.gone)
        return await update(batches)

    run.learner.update = slow
    with pytest.raises(RuntimeError, match="engine 0 is gone"):
        asyncio.run(asyncio.wait_for(run.controller().run(), 30))
    assert list(run.lines.lines) == [0, 1, 2, 3]
    assert latest(run.folder / "checkpoints", print)[1].step == 3


@pytest.mark.parametrize("error", [LearnerLost, RuntimeError])
def test_engines_that_go_within_an_evaluation_end_the_run_with_their_error(error, fake_run, fakes):
    """Step 4 is trained by then, and waits for the answers after step 3, which never come."""
    learner = fakes["learner"]()
    pool = late_pool(fakes, learner, error)
    run = fake_run("rollout.max_staleness=1", "checkpoint.every=2", learner=learner, pool=pool)
    with pytest.raises(error, match="engine 0 is gone"):
        run.run()
    assert list(run.lines.lines) == [0, 1, 2]
    assert latest(run.folder / "checkpoints", print)[1].step == 2


async def until(happened):
    """Returns when it has, and the feed has heard of it, which a slow disk has it wait for."""
    while not happened():
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.5)


def test_a_step_takes_no_time_of_the_report_of_another(fake_run, monkeypatch):
    """Off policy the line of step 3 is written within step 4."""
    step = Reporter.step

    def slow(reporter, record):
        if record.step == 3:
            time.sleep(2.0)
        return step(reporter, record)

    monkeypatch.setattr(Reporter, "step", slow)
    run = fake_run("rollout.max_staleness=1").run()
    assert run.lines.lines[4]["time/step_s"] < 2.0


def test_an_alarm_after_the_last_step_stops_nothing(fake_run):
    run = fake_run("evaluation.every=6", ALARM)
    controller = run.controller()
    asyncio.run(controller.run())
    assert controller.stopped is None
    assert [alarm["step"] for alarm in run.lines.alarms if alarm["rule"] == "held_out"] == [6]


@pytest.mark.parametrize(("staleness", "ends"), [(0, 3), (1, 4)])
def test_an_alarm_on_an_evaluation_ends_the_run_with_a_checkpoint(staleness, ends, fake_run):
    """Off policy the next step is trained by then: the run ends after that."""
    run = fake_run(f"rollout.max_staleness={staleness}", ALARM)
    controller = run.controller()
    asyncio.run(controller.run())

    assert controller.stopped.startswith("held out: ")
    assert max(run.lines.lines) == ends
    assert [alarm["step"] for alarm in run.lines.alarms if alarm["rule"] == "held_out"] == [3]
    assert latest(run.folder / "checkpoints", print)[1].step == ends


def test_a_stop_asked_for_while_weights_are_evaluated_leaves_no_step_without_its_line(
    fake_run, fakes
):
    class Pool(fakes["pool"]):
        async def generate(self, requests):
            if requests[0].key.split == "eval" and self.weights.policy_version > 0:
                controller.request_stop("asked")
            async for completions in super().generate(requests):
                yield completions

    run = fake_run("rollout.max_staleness=1", "checkpoint.every=0", pool=Pool())
    controller = run.controller()
    asyncio.run(asyncio.wait_for(controller.run(), 30))
    last = max(run.lines.lines)
    assert last in (3, 4) and list(run.lines.lines) == list(range(last + 1))
    assert latest(run.folder / "checkpoints", print)[1].step == last


@pytest.mark.parametrize("staleness", [0, 1])
def test_drawing_at_once_changes_no_number(staleness, fake_run, fakes):
    class OneAtATime(fakes["pool"]):
        async def generate(self, requests):
            self.free = getattr(self, "free", None) or asyncio.Lock()
            async with self.free:
                async for completions in super().generate(requests):
                    yield completions

    stale = f"rollout.max_staleness={staleness}"
    one = fake_run(stale, folder="one", pool=OneAtATime()).run()
    both = fake_run(stale, folder="both").run()
    assert one.stable == both.stable
    for split, steps in (("eval", EVALUATED), ("train", range(1, 7))):
        for step in steps:
            files = [ledger_path(run.folder / FOLDERS[split], step) for run in (one, both)]
            assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("hangs", ["eval", "train"])
def test_if_one_of_two_draws_fails_the_run_ends_at_once_with_its_error(hangs, fake_run, fakes):
    class Pool(fakes["pool"]):
        async def generate(self, requests):
            if requests[0].key.split == hangs:
                await asyncio.Event().wait()
            if requests[0].key.split in ("eval", "train"):
                raise RuntimeError("engine 0 is gone")
            async for completions in super().generate(requests):
                yield completions

    run = fake_run(pool=Pool())
    with pytest.raises(RuntimeError, match="engine 0 is gone"):
        asyncio.run(asyncio.wait_for(run.controller().run(), 60))


def test_failed_checks_of_an_evaluation_are_not_the_steps(fake_run, fakes):
    """Both are graded at the same time, by the same grader."""

    class Grader(fakes["grader"]):
        async def grade(self, rollouts):
            rewards = await super().grade(rollouts)
            failed = {"eval": 1, "train": 3}
            return [
                Unchecked(-0.5)
                if rollout.key.draw == failed.get(rollout.key.split) and rollout.key.sample == 0
                else reward
                for rollout, reward in zip(rollouts, rewards, strict=True)
            ]

    run = fake_run(grader=Grader()).run()
    assert [run.lines.lines[step]["reward/errors"] for step in range(1, 7)] == [1, 0, 0, 0, 0, 0]
    for step in EVALUATED:
        batch = recorded(run, "eval", step)
        assert batch.reward_errors == 1
        assert [each.reward for each in batch.rollouts if each.key[1:] == (1, 0, 0)] == [-0.5]
