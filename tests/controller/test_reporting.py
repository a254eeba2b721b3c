"""A step's line: whose time it counts where, what updates share, what alarms ask for."""

import asyncio
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from isentropic.controller.reporting import FACTS, Reporter
from isentropic.controller.step import Delivery, Evaluation


@pytest.fixture
def trained(fake_run):
    """(run, its first step, trained without a feed) of a config."""

    def make(*overrides, folder="run"):
        run = fake_run(*overrides, folder=folder)
        trainer = run.trainer()

        async def go():
            step = await trainer.train(await trainer.score(Delivery(await run.draw(1))))
            await trainer.recheck(step)
            return step

        return run, asyncio.run(go())

    return make


@pytest.mark.parametrize(
    ("staleness", "waited", "other"),
    [
        pytest.param(0, 2.0, 3.0, id="on policy: the loop waits while the engines work"),
        pytest.param(1, 10.0, 3.0, id="overlapped: the engines' time is not the loop's"),
    ],
)
def test_every_second_is_counted_once(staleness, waited, other, trained):
    """Of 20 s: 10 waited (engines: 6 draw, 1 grade, 1 load), 4 update, 1 publish, 2 evaluate."""
    run, step = trained(f"rollout.max_staleness={staleness}")
    step.watch.total = 20.0
    step.watch.seconds = {"waited": 10.0, "update": 4.0, "publish": 1.0, "evaluating": 2.0}
    step.delivery.sync_s = 1.0
    step.delivery.clock.rollout_s, step.delivery.clock.reward_s = 6.0, 1.0
    step.delivery.clock.tokens = 300
    step.evaluation = Evaluation(step=1, groups=[], seconds=2.0)
    Reporter(run.config, run.lines).step(step)

    line = run.lines.lines[1]
    assert (line["time/step_s"], line["time/wait_s"], line["time/other_s"]) == (20, waited, other)
    assert (line["time/sync_s"], line["time/old_logprob_s"]) == (2.0, 0.0)
    assert line["throughput/rollout_tok_s"] == 50.0
    tokens = sum(sample.rollout.num_response_tokens for sample in step.samples)
    scored = sum(len(scores.logprob) for scores in step.scores.values())
    assert line["throughput/learner_tok_s"] == (tokens + scored) / 4


def test_the_line_has_the_means_of_the_updates_but_of_their_facts(trained):
    run, step = trained("learner.updates_per_rollout=2")
    Reporter(run.config, run.lines).step(step)

    line, rows = run.lines.lines[1], run.lines.updates[1]
    assert [row["policy_version"] for row in rows] == [0, 1]
    assert line["loss"] == np.mean([row["loss"] for row in rows])
    assert line["learning_rate"] == np.mean([row["learning_rate"] for row in rows])
    assert line["grad_norm/max"] == max(row["grad_norm"] for row in rows)
    assert (line["update/count"], line["policy_version"]) == (2, 0)
    assert not {"grad_norm", "skipped"} & line.keys() and set(FACTS) <= rows[0].keys()


def test_what_was_begun_early_is_what_the_line_says(trained):
    """Begun right after the training, or by the report itself: the same line, rows and tokens."""
    overrides = ("accounting.ledger.every=1", "learner.updates_per_rollout=2")
    lines, rows, tokens = [], [], []
    for folder in ("early", "late"):
        run, step = trained(*overrides, folder=folder)
        reporter = Reporter(run.config, run.lines)
        if folder == "early":
            reporter.begin(step)
            begun = [step.drawn, *step.accounts]
            assert len(begun) == 1 + 2
        reporter.step(step)
        lines.append(run.stable[1])
        rows.append(repr(run.lines.updates[1]))
        tokens.append(step.attribution)
    assert lines[0] == lines[1] and rows[0] == rows[1]
    assert [part["update"].tolist()[0] for part in tokens[0]] == [0, 1]
    for early, late in zip(*tokens, strict=True):
        assert {name: values.tolist() for name, values in early.items()} == {
            name: values.tolist() for name, values in late.items()
        }


def test_an_error_of_the_accounting_comes_out_of_the_report(trained):
    """Its thread has nobody to tell it to."""
    run, step = trained()
    step.updates[0] = replace(step.updates[0], logprob=step.updates[0].logprob[:-1])
    reporter = Reporter(run.config, run.lines)
    reporter.begin(step)
    with pytest.raises(AssertionError, match="differ in length"):
        reporter.step(step)


def test_a_skipped_update_is_in_no_mean_and_in_no_sum(trained):
    """Its gradient was not finite: it moved nothing, and would turn the line's numbers into NaN."""
    run, step = trained("accounting.ledger.every=1", "learner.updates_per_rollout=2")
    skipped = step.updates[1]
    silent = np.zeros_like(skipped.books.logprob_slope)
    step.updates[1] = replace(
        skipped,
        skipped=True,
        logprob=np.full_like(skipped.logprob, np.nan),
        books=replace(skipped.books, scale=0.0, logprob_slope=silent, entropy_slope=silent),
    )
    Reporter(run.config, run.lines).step(step)

    line, (row, other) = run.lines.lines[1], run.lines.updates[1]
    assert math.isnan(other["loss"]) and math.isnan(other["drift/total"])
    for name in ("loss", "drift/total", "clip/frac", "cf/dapo/drift", "learning_rate"):
        assert line[name] == row[name]
    assert line["cf/dapo/entropy_change"] == row["cf/dapo/entropy_change"]
    assert (line["update/count"], line["update/skipped"]) == (2, 1)


def test_a_step_of_skipped_updates_has_the_keys_of_one_without(trained):
    run, step = trained()
    step.updates = [replace(update, skipped=True) for update in step.updates]
    Reporter(run.config, run.lines).step(step)
    assert run.lines.lines[1]["drift/total"] == 0.0 and "loss" not in run.lines.lines[1]


def test_every_log_gets_every_line_and_only_the_files_get_the_updates(trained):
    run, step = trained()

    class Log:
        def __init__(self):
            self.lines, self.alarms = {}, []

        def log(self, step, metrics):
            self.lines[step] = metrics

        def log_alarm(self, record):
            self.alarms.append(record)

    log = Log()
    Reporter(run.config, run.lines, [log]).step(step)
    assert log.lines == run.lines.lines


@pytest.mark.parametrize(
    ("action", "stops", "saves"),
    [("none", False, False), ("checkpoint", False, True), ("stop", True, False)],
)
def test_an_alarm_asks_for_what_its_rule_says(action, stops, saves, trained):
    """Entropy of a uniform choice among eight tokens is ln 8 = 2.08 nats: below 3."""
    rule = "alarms.rules.entropy_collapse"
    run, step = trained(
        f"{rule}.baseline=none", f"{rule}.value=3", f"{rule}.patience=1", f"{rule}.action={action}"
    )
    decision = Reporter(run.config, run.lines).step(step)

    (alarm,) = [record for record in run.lines.alarms if record["rule"] == "entropy_collapse"]
    assert decision.stop == (alarm["message"] if stops else None)
    assert decision.checkpoint == saves


def test_the_best_steps_survive_a_checkpoint(trained):
    """Scores 1/2, 1 and 0 of steps 1, 2 and 3: the best two are 2 and 1, through JSON too."""
    run, step = trained()
    reporter = Reporter(run.config, run.lines)
    one, two = step.delivery.batch.groups[0].rollouts[:2]
    for number, rewards in ((1, (1.0, 0.0)), (2, (1.0, 1.0)), (3, (0.0, 0.0))):
        rollouts = tuple(map(graded, (one, two), rewards))
        group = replace(step.delivery.batch.groups[0], rollouts=rollouts)
        step.step = number
        step.evaluation = Evaluation(step=number, groups=[group], seconds=0.0)
        reporter.step(step)
    again = Reporter(run.config, run.lines)
    again.load_state_dict(json.loads(json.dumps(reporter.state_dict())), [])
    assert reporter.best_steps(2, {1, 2, 3}) == again.best_steps(2, {1, 2, 3}) == {2, 1}
    assert again.best_steps(0, {1, 2, 3}) == set()
    assert again.best_steps(1, {1, 3}) == {1}  # step 2 has no checkpoint


def graded(rollout, reward):
    return replace(rollout, reward=reward)


def test_a_step_without_updates_has_its_line(trained):
    """Means of nothing are no numbers, and the entropy is there all the same."""
    run, step = trained("rollout.max_response_tokens=1")
    Reporter(run.config, run.lines).step(step)
    line = run.lines.lines[1]
    assert line["update/count"] == 0
    assert math.isnan(line["grad_norm/mean"]) and math.isnan(line["entropy/measured_change"])
    assert line["entropy/mean"] == pytest.approx(math.log(8), abs=1e-6)
    assert run.lines.updates[1] == []


def test_steps_without_updates_are_counted_through_a_checkpoint(trained):
    run, idle = trained("rollout.max_response_tokens=1")
    busy_run, busy = trained(folder="busy")
    reporter = Reporter(run.config, run.lines)
    for number in (1, 2):
        idle.step = number
        reporter.step(idle)
    again = Reporter(busy_run.config, run.lines)
    again.load_state_dict(json.loads(json.dumps(reporter.state_dict())))
    idle.step, busy.step = 3, 4
    again.step(idle)
    again.step(busy)
    lines = run.lines.lines
    assert [lines[n]["update/none_in_a_row"] for n in (1, 2, 3, 4)] == [1, 2, 3, 0]
    assert [record["rule"] for record in run.lines.alarms if record["step"] == 3] == [
        "trained_nothing"
    ]


def test_a_checkpoint_without_the_count_of_idle_steps_starts_it_at_0(trained):
    run, step = trained("rollout.max_response_tokens=1")
    reporter = Reporter(run.config, run.lines)
    state = reporter.state_dict()
    del state["none_in_a_row"]
    reporter.load_state_dict(state)
    reporter.step(step)
    assert run.lines.lines[1]["update/none_in_a_row"] == 1
