"""The loop on fakes: its numbers depend on seed and config, not on order or interruptions."""

import asyncio
import io
from dataclasses import replace

import numpy as np
import pytest

from isentropic.controller.reporting import Reporter
from isentropic.controller.storage.aside import set_steps_aside
from isentropic.controller.storage.checkpoints import verify
from isentropic.controller.storage.ledger import read_batch
from isentropic.controller.storage.resume import drawn_by
from isentropic.metrics.sinks.terminal import PHASES, Terminal


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_the_order_of_completions_changes_nothing(fake_run, staleness):
    one = fake_run(f"rollout.max_staleness={staleness}", folder="one").run()
    other = fake_run(f"rollout.max_staleness={staleness}", folder="other")
    other.pool.order_seed, other.pool.num_actors = 7, 1
    other.run()

    assert one.stable == other.stable
    np.testing.assert_array_equal(one.learner.logits, other.learner.logits)


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_a_step_is_drawn_from_the_weights_its_schedule_names(fake_run, staleness):
    run = fake_run(f"rollout.max_staleness={staleness}").run()
    ages = {step: line["staleness/max"] for step, line in run.lines.lines.items() if step}
    drawn = {}
    for key, version in run.pool.drawn:
        if key.split == "train":
            drawn.setdefault(key.draw // 4 + 1, set()).add(version)
    before = {step: line["policy_version"] for step, line in run.lines.lines.items()}

    # Weights after step s are those that step s + 1 starts from.
    assert drawn == {step: {before[max(1, step - staleness)]} for step in range(1, 7)}
    assert ages == {step: min(step - 1, staleness) for step in range(1, 7)}


def test_line_zero_and_evaluations(fake_run):
    lines = fake_run().run().lines.lines
    assert sorted(lines) == list(range(7))
    assert [step for step in lines if "eval/avg_at_k" in lines[step]] == [0, 3, 6]
    assert lines[0]["policy_version"] == 0
    # The fake starts uniform over 8 tokens.
    assert lines[0]["eval/entropy"] == pytest.approx(np.log(8), abs=1e-6)
    assert not any(key.startswith("entropy/") for key in lines[0])
    assert lines[1]["entropy/mean"] == pytest.approx(np.log(8), abs=1e-6)


def test_updates_are_accounted_for_while_weights_are_published(fake_run, fakes, monkeypatch):
    """At 7 B and 25 M tokens both take half a minute; one after the other, ranks would wait."""
    events, begin = [], Reporter.begin

    class Learner(fakes["learner"]):
        async def publish(self):
            events.append("publish")
            return await super().publish()

    def noted(reporter, step):
        events.append("account")
        begin(reporter, step)

    monkeypatch.setattr(Reporter, "begin", noted)
    fake_run("run.steps=2", learner=Learner()).run()
    assert events == ["publish", "account", "publish", "account", "publish"]


def test_the_policy_learns(fake_run):
    lines = fake_run("run.steps=20").run().lines.lines
    assert lines[20]["reward/mean"] > lines[1]["reward/mean"] + 0.2
    assert lines[20]["entropy/mean"] < lines[1]["entropy/mean"]


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_resume_is_exact(fake_run, staleness):
    """Killed in step 5, resumed from step 4: same lines, same weights, nothing drawn twice."""
    whole = fake_run(f"rollout.max_staleness={staleness}", folder="whole").run()
    killed = fake_run(f"rollout.max_staleness={staleness}", folder="killed")
    drawn = sum(key.split == "train" for key, _ in whole.pool.drawn)
    stop_after(killed, step=5)
    first = killed.pool
    resumed = fake_run(f"rollout.max_staleness={staleness}", folder="killed").run(resume=True)

    assert killed.stable | resumed.stable == whole.stable
    assert min(resumed.lines.lines) == 5
    np.testing.assert_array_equal(resumed.learner.logits, whole.learner.logits)
    again = {key for key, _ in first.drawn if key.split == "train"} & {
        key for key, _ in resumed.pool.drawn if key.split == "train"
    }
    # Only a batch that was not whole in the ledger may be drawn again, and that may be all answered.
    assert len(again) <= drawn / 6


def stop_after(run, step):
    """Runs until the line of `step` is there, then drops everything without a word."""

    class Killed(Exception):
        pass

    write = run.lines.log

    def log(at, metrics):
        if at == step:
            raise Killed
        write(at, metrics)

    run.lines.log = log
    with pytest.raises(Killed):
        run.run()


def test_a_step_that_teaches_nothing_still_writes_its_line(fake_run):
    run = fake_run(
        "run.steps=2", "rollout.max_response_tokens=1"
    ).run()  # one token: never two ones, all wrong
    line = run.lines.lines[2]
    assert line["group/all_wrong_frac"] == 1.0 and line["update/count"] == 0
    assert line["policy_version"] == 0 and line["entropy/mean"] == pytest.approx(
        np.log(8), abs=1e-6
    )


def test_a_broken_engine_ends_the_run_with_its_own_error(fake_run):
    run = fake_run()
    run.pool.fail_at = 30
    with pytest.raises(RuntimeError, match="engine 0 is gone"):
        run.run()


def test_a_requested_stop_saves_and_resumes(fake_run):
    run = fake_run(folder="stopped")
    controller = run.controller()

    async def stop_soon():
        task = asyncio.create_task(controller.run())
        while 2 not in run.lines.lines and not task.done():
            await asyncio.sleep(0)
        controller.request_stop("SIGTERM")
        await task

    asyncio.run(stop_soon())
    assert controller.stopped == "SIGTERM"
    last = max(run.lines.lines)
    assert (run.folder / "checkpoints" / f"step_{last:06d}").is_dir()
    resumed = fake_run(folder="stopped").run(resume=True)
    assert sorted(resumed.lines.lines) == list(range(last + 1, 7))


def test_a_run_that_goes_back_leaves_no_checkpoint_before_it(fake_run):
    """Finished, then resumed from step 2: 4 and 6 are of its past until it has saved them again."""
    run = fake_run("checkpoint.keep_last=3", folder="back").run()
    folder, warnings = run.folder / "checkpoints", []
    start = folder / "step_000002"
    again = fake_run("checkpoint.keep_last=1", "checkpoint.keep_best=0", folder="back")
    begun = []
    look = lambda: begun.append([path.name for path in folder.iterdir()])  # noqa: E731
    controller = again.controller(warn=warnings.append, begun=look)
    asyncio.run(controller.run((start, verify(start))))

    assert begun == [["step_000002"]]
    assert "later checkpoints (4, 6) are set aside" in warnings[0]
    assert [path.name for path in folder.iterdir()] == ["step_000006"]
    assert not list(again.folder.glob("set_aside/*/checkpoints/*"))
    np.testing.assert_array_equal(again.learner.logits, run.learner.logits)


@pytest.mark.parametrize(("staleness", "again"), [(0, [5, 6]), (1, [6])])
def test_what_is_set_aside_is_drawn_again_under_the_new_config(staleness, again, fake_run):
    """From step 4 on with groups of 8; with staleness 1 the weights that drew step 5 are gone."""
    stale = f"rollout.max_staleness={staleness}"
    fake_run(stale, "checkpoint.keep_last=9", folder="changed").run()
    run = fake_run(stale, "rollout.group_size=8", folder="changed")
    start = run.folder / "checkpoints" / "step_000004"
    start = start, verify(start)

    def begun():
        set_steps_aside(run.folder, trained=4, drawn=drawn_by(start, ahead=staleness))

    asyncio.run(run.controller(begun=begun).run(start))
    batches = [read_batch(run.folder / "rollouts", step) for step in (4, 5, 6)]
    sizes = {batch.step: len(batch.groups[0].rollouts) for batch in batches}
    assert sizes == {step: 8 if step in again else 4 for step in (4, 5, 6)}
    draws = [group.draw for batch in batches for group in batch.groups]
    assert draws == list(range(12, 24))  # no prompt is left out, none comes twice


@pytest.mark.parametrize(("lr", "said"), [(1e-3, 1), (0.0, 0)], ids=["over", "asked for"])
def test_updates_at_the_rate_0_are_said_once(lr, said, fake_run, fakes):
    """The rate of this learner is over before the run is; in the second run it was to be 0."""
    run = fake_run(f"learner.lr={lr}", learner=fakes["learner"](lr=0.0))
    warnings = []
    asyncio.run(run.controller(warn=warnings.append).run())
    warnings = [warning for warning in warnings if "learning rate" in warning]
    assert len(warnings) == said
    assert all("step 1" in warning and "lr_schedule" in warning for warning in warnings)


def test_engines_with_other_weights_stop_the_run(fake_run):
    """The pool drops every load after the second: the probe sees it before anything is trained."""
    run = fake_run()
    load = run.pool.load_weights

    async def lossy(weights):
        return await load(weights) if len(run.pool.loads) < 2 else {}

    run.pool.load_weights = lossy
    with pytest.raises(RuntimeError, match="nats off the learner's"):
        run.run()
    assert max(run.lines.lines) <= 2


def test_updates_that_cannot_be_made_stop_the_run(fake_run):
    run = fake_run("learner.max_skipped_updates=1")
    update = run.learner.update

    async def poisoned(batches):
        return [
            replace(
                result,
                updates=tuple(replace(one, skipped=True) for one in result.updates),
                policy_version=0,
            )
            for result in await update(batches)
        ]

    run.learner.update = poisoned
    with pytest.raises(RuntimeError, match="2 updates in a row"):
        run.run()


@pytest.mark.parametrize("staleness", [0, 1])
def test_every_sync_is_probed(fake_run, staleness):
    lines = fake_run(f"rollout.max_staleness={staleness}").run().lines.lines
    gaps = [lines[step]["sync/probe_logprob_abs_max"] for step in range(1, 7)]
    assert max(gaps) < 1e-6  # NaN, where no probe was scored, fails too


def test_the_terminal_shows_each_phase_of_a_run_in_order(fake_run):
    shown = []

    class Shown(Terminal):
        def phase(self, name):
            super().phase(name)
            shown.append(self._phase_line())

    run = fake_run("rollout.max_staleness=0")
    asyncio.run(run.controller(phase=Shown(6, stream=io.StringIO()).phase).run(None))

    step = ["drawing", "scoring", "training", "sending weights", "measuring"]
    seen = list(dict.fromkeys(shown))
    assert seen[0] == "first evaluation" and set(seen) >= {*step, "evaluating"}
    assert not set(PHASES) & set(seen), "a reader sees words, not the names of stopwatches"
    first = shown[shown.index("drawing") :]
    assert [name for name in dict.fromkeys(first) if name in step] == step
    assert shown.count("evaluating") == 2
