"""A search makes the same runs on any number of lanes and after any stop, and learns from them."""

import asyncio
import io
import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from isentropic.experiments.commands.sweep import OPTIONS, request, sweep
from isentropic.experiments.program import DONE as CODE_DONE
from isentropic.experiments.program import RESUMABLE, STOPPED_BY_ALARM
from isentropic.experiments.sweep.ledger import DONE, FAILED, INTERRUPTED, PRUNED, SweepLedger
from isentropic.experiments.sweep.plan import Composer, plan_of
from isentropic.experiments.sweep.queue import Sweep
from isentropic.experiments.sweep.search import Search
from isentropic.experiments.sweep.suggest import Judge, Outcome, search_of, suggest
from isentropic.experiments.sweep.table import SweepTable
from isentropic.metrics.report.tables import search_table

STEPS = 12
SPACE = {"objective.beta1": [0.0, 1.0], "learner.lr": {"log": [1e-5, 1e-2]}}
ASKED = {"metric": "reward/mean", "goal": "max", "count": 16, "batch": 4, "keys": SPACE}
COMMON = ["experiment=ce_gppo_tiny", f"run.steps={STEPS}", "checkpoint.every=1"]


class FakeComposer:
    """Puts the values of a point into one config that was composed before: a tenth of a second each."""

    known: ClassVar[list] = []

    def __init__(self, folder):
        self._folder = folder
        if not self.known:
            plan = plan_of({"search": ASKED}, COMMON)
            self.known.append(Composer(plan, folder, early_stop=False).trial(["seed=0"]))

    def trial(self, own):
        base = self.known[0]
        config = base.config
        name = "-".join(own).replace("objective.", "").replace("learner.", "").replace("=", "_")
        for key, text in (override.split("=") for override in own):
            section, _, key = key.rpartition(".")
            value = None if text == "null" else float(text)
            changed = replace(getattr(config, section), **{key: value})
            config = replace(config, **{section: changed})
        config = replace(config, run=replace(config.run, name=name, dir=str(self._folder / name)))
        return replace(base, name=name, digest=name, overrides=(*COMMON, *own), config=config)


def search_in(folder, **changes):
    return Search(search_of(ASKED | changes), FakeComposer(folder))


def composed(folder, *arguments, **changes):
    """A search whose runs Hydra composes."""
    plan = plan_of({"search": ASKED | changes}, [*COMMON, *arguments])
    return Search(plan.search, Composer(plan, folder, early_stop=False))


def height(trial):
    """What a run reaches: best at beta1 = 0.7, lr = 1e-3."""
    beta1, lr = trial.config.objective.beta1, trial.config.learner.lr
    return math.exp(-4 * (beta1 - 0.7) ** 2 - (math.log10(lr) + 3) ** 2)


class FakeSweep(Sweep):
    """Runs whose reward rises to `height`; `fails` says which do not end well, `late` who is slow."""

    fails = staticmethod(lambda trial: None)
    late = 0

    async def _train(self, lane, trial, watch):
        stopping = FakeStopping()
        watch.stop_by(stopping)
        folder = Path(trial.config.run.dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        done = len(path.read_text().splitlines()) if path.exists() else 0
        self.made.append(trial.name)
        for step in range(done, STEPS + 1):
            await asyncio.sleep(0.001 * (hash(trial.name) % 3) * self.late)
            line = {"reward/mean": height(trial) * step / STEPS, "policy_version": step}
            with path.open("a") as file:
                file.write(json.dumps({"step": step} | line) + "\n")
            watch.log(step, line)
            outcome = self.fails(trial) if step else None
            if outcome == RESUMABLE:
                self._signalled(signal.SIGTERM)
                return RESUMABLE
            if isinstance(outcome, Exception):
                raise outcome
            if stopping.reason:
                return STOPPED_BY_ALARM
        return CODE_DONE


class FakeStopping:
    reason = None

    def end(self, reason):
        self.reason = reason


def go(folder, *, parallel=1, fails=lambda trial: None, late=0, **changes):
    """(rows of the ledger in order, states, the search, names of what ran)"""
    search = search_in(folder, **changes)
    ledger = SweepLedger(folder)
    shown = io.StringIO()
    fake = FakeSweep(folder, [], ledger, SweepTable("s", [], shown), search)
    fake.made, fake.fails, fake.late = [], fails, late
    asyncio.run(fake.go(parallel))
    fake.shown = shown.getvalue()
    return ledger, search, fake


def of_ledger(ledger, search):
    """What a search has come to, run by run, times left out."""
    keys = ("run", "overrides", "state", "value", "step")
    return [
        {key: ledger.rows[trial.digest].get(key) for key in keys if key != "overrides"}
        | {"overrides": list(ledger.rows[trial.digest]["overrides"])}
        for trial in search.trials
    ]


HALVING = {"first": 2, "factor": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search with halving, on one lane."""
    return go(tmp_path_factory.mktemp("whole") / "s", halving=HALVING)


@pytest.mark.parametrize("parallel", [2, 3])
def test_the_same_runs_on_any_number_of_lanes(whole, tmp_path, parallel):
    ledger, search, fake = go(tmp_path / "s", parallel=parallel, late=1, halving=HALVING)
    assert of_ledger(ledger, search) == of_ledger(*whole[:2])
    assert len(fake.made) == 16


def test_another_seed_makes_other_runs(whole, tmp_path):
    _, search, _ = go(tmp_path / "s", count=4, seed=1)
    assert not {trial.name for trial in search.trials} & {trial.name for trial in whole[1].trials}


@pytest.mark.parametrize("stopped_at", [2, 6, 11])
def test_a_search_that_was_stopped_goes_on_with_the_same_runs(whole, tmp_path, stopped_at):
    names = [trial.name for trial in whole[1].trials]
    stop = lambda trial: RESUMABLE if trial.name == names[stopped_at] else None  # noqa: E731
    ledger, _, _ = go(tmp_path / "s", fails=stop, halving=HALVING)
    assert list(ledger.rows.values())[-1]["state"] == INTERRUPTED

    ledger, search, second = go(tmp_path / "s", halving=HALVING)
    assert of_ledger(ledger, search) == of_ledger(*whole[:2])
    assert second.made == names[stopped_at:]
    assert go(tmp_path / "s", halving=HALVING)[2].made == []


def test_a_search_that_was_killed_goes_on_with_the_same_runs(whole, tmp_path):
    """The ledger ends in a run that was going on, and in half a line."""
    folder = tmp_path / "s"
    go(folder, count=8, halving=HALVING)
    lines = (folder / "sweep.jsonl").read_text().splitlines(keepends=True)
    started = [number for number, line in enumerate(lines) if '"running"' in line]
    (folder / "sweep.jsonl").write_text("".join(lines[: started[6] + 1]) + '{"hash": "to')
    ledger, search, _ = go(folder, halving=HALVING)
    assert of_ledger(ledger, search) == of_ledger(*whole[:2])


def test_it_learns(tmp_path):
    """The last runs are better than the first, which were random."""
    ledger, search, _ = go(tmp_path / "s", count=32)
    values = [ledger.rows[trial.digest]["value"] for trial in search.trials]
    assert sum(values[-8:]) > 1.3 * sum(values[:8])
    value, best = search.best(ledger)
    assert value == max(values) == pytest.approx(height(best)) and value > 0.85


def test_who_is_behind_is_ended_and_reported_with_the_step(whole):
    ledger, search, fake = whole
    rows = [ledger.rows[trial.digest] for trial in search.trials]
    pruned = [row for row in rows if row["state"] == PRUNED]
    assert {row["state"] for row in rows} == {DONE, PRUNED}
    assert all(row["state"] == DONE for row in rows[:4])  # nobody was there to compare with
    assert {row["step"] for row in pruned} <= {2, 4, 8} and len(pruned) >= 4
    for row, trial in zip(rows, search.trials, strict=True):
        lines = (Path(trial.config.run.dir) / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["step"] == row.get("step", STEPS)
    assert f"{pruned[0]['run']}: pruned" in fake.shown
    assert f"at step {pruned[0]['step']}" in fake.shown
    best = max(row["value"] for row in rows if row["state"] == DONE)
    assert f"Best reward/mean (last) {best:.4g}: objective.beta1=" in search.summary(ledger)


def test_the_report_has_a_table_of_the_search(whole, tmp_path):
    shown = search_table(Path(whole[1].trials[0].config.run.dir).parent)
    assert len(shown.rows) == 16
    cells = [[cell.text for cell in row] for row in shown.rows]
    assert cells[0][1].startswith("objective.beta1=") and "experiment" not in cells[0][1]
    assert any(row[3].startswith("pruned at step ") for row in cells)
    assert search_table(tmp_path) is None
    (tmp_path / "sweep.jsonl").write_text('{"run": [], "value": [], "overrides": 3}\n3\n')
    assert [cell.text for cell in search_table(tmp_path).rows[0]] == ["1", "", "", ""]
    (tmp_path / "sweep.jsonl").write_text("{\n{}\n")
    assert "line 1 is not JSON" in search_table(tmp_path).notes[0]


def test_a_run_is_judged_by_earlier_batches_only():
    """Asynchronous successive halving, by hand: half of those at each rung go on."""
    plan = search_of(ASKED | {"halving": HALVING})
    point = {"objective.beta1": 0.5, "learner.lr": 1e-3}
    past = [
        Outcome(point=point, curve={1: 0.0, 2: level, 3: 0.0, 4: level}, was_pruned=False)
        for level in (0.1, 0.4, 0.3)
    ]
    low, high = Judge(plan, past, point), Judge(plan, past, point)
    assert [low.ends(1, 0.0), low.ends(2, 0.2)] == [False, True]
    assert [high.ends(1, 0.0), high.ends(2, 0.35), high.ends(3, 0.0)] == [False, False, False]
    assert high.ends(4, 0.2)  # the second rung: behind 0.3 and 0.4
    assert not Judge(plan, [], point).ends(2, 0.0)
    down = search_of(ASKED | {"halving": HALVING, "goal": "min"})
    assert not Judge(down, past, point).ends(2, 0.2) and Judge(down, past, point).ends(2, 0.35)


def test_a_failed_run_teaches_nothing_and_stays_so_once_others_were_built_on_it(whole, tmp_path):
    names = [trial.name for trial in whole[1].trials]
    fail = lambda trial: RuntimeError("no room") if trial.name == names[1] else None  # noqa: E731
    ledger, search, fake = go(tmp_path / "s", fails=fail, count=8)
    assert ledger.rows[search.trials[1].digest]["state"] == FAILED
    assert fake.made.count(names[1]) == 2
    assert "1 failed" in search.summary(ledger)
    assert go(tmp_path / "s", count=8)[2].made == []


def test_a_search_without_any_finished_run_gives_up_and_can_be_taken_up_again(tmp_path):
    ledger, search, fake = go(tmp_path / "s", fails=lambda trial: RuntimeError("no room"))
    assert len(search.trials) == 4 and len(fake.made) == 8
    assert search.summary(ledger) == (
        "no run of the search's first 4 finished, so there is nothing to learn from: "
        "RuntimeError: no room"
    )
    ledger, search, _ = go(tmp_path / "s")
    assert {row["state"] for row in ledger.rows.values()} == {DONE} and len(ledger.rows) == 16


def test_a_metric_that_no_run_has_ends_the_search_at_its_first_step(tmp_path):
    with pytest.raises(ValueError, match=r"in no line of the run's first step\. Did you mean 're"):
        go(tmp_path / "s", metric="reward/maen")
    (lines,) = [path.read_text().splitlines() for path in tmp_path.glob("s/*/metrics.jsonl")]
    assert len(lines) == 2


def test_runs_that_are_not_suggested_again_are_refused(tmp_path):
    go(tmp_path / "s", count=4)
    with pytest.raises(ValueError, match=r"does not suggest the run .* again, which it has made"):
        go(tmp_path / "s", count=4, seed=1)


def test_points_are_composed_as_they_are_written(tmp_path):
    keys = {"objective.clip_high": {"choice": [0.2, None]}, "objective.beta1": [0, 0.123456]}
    search = composed(tmp_path, keys=keys, batch=6)
    trials = search.first_batch()
    assert {trial.config.objective.clip_high for trial in trials} == {0.2, None}
    assert all(0 <= trial.config.objective.beta1 <= 0.123456 for trial in trials)
    assert len({trial.config.run.dir for trial in trials}) == 6
    assert trials[0].overrides[-1].startswith("objective.beta1=0.")


def test_a_point_depends_on_the_seed_and_on_what_came_before():
    plan = search_of(ASKED)
    first = suggest(plan, [], [])
    assert first == suggest(plan, [], []) != suggest(plan, [], [first])
    assert suggest(search_of(ASKED | {"seed": 1}), [], []) != first
    assert all(
        low <= first[key] <= high
        for key, (low, high) in {"objective.beta1": (0, 1), "learner.lr": (1e-5, 1e-2)}.items()
    )


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({}, "search needs metric, goal, count, keys"),
        (ASKED | {"keys": {}}, "the search's space is empty"),
        (ASKED | {"keys": {"seed": {"choice": [3]}}}, "the search's space is empty"),
        (ASKED | {"keys": {"seed": [3]}}, r"search\.keys\.seed must be \[low, high\]"),
        (ASKED | {"keys": {"seed": [0, math.inf]}}, r"search\.keys\.seed must be \[low, high\]"),
        (ASKED | {"keys": 3}, "search.keys must be keys with ranges"),
        (ASKED | {"goal": "maximum"}, "search.goal must be one of max, min"),
        (ASKED | {"metric": None}, "search.metric must be a key of metrics.jsonl"),
        (ASKED | {"count": 0}, "search.count must be at least 1|search.count must be >= 1"),
        (ASKED | {"batch": 2.5}, "search.batch must be"),
        (ASKED | {"halving": {"first": 2}}, "search.halving must be {first"),
        (ASKED | {"halving": {"first": 2, "factor": 1}}, r"search\.halving\.factor must be"),
        (ASKED | {"sampelr": "tpe"}, r"search\.sampelr is no key .* Did you mean 'sampler'"),
    ],
)
def test_searches_that_cannot_be(search, message):
    with pytest.raises(ValueError, match=message):
        plan_of({"search": search}, COMMON)


@pytest.mark.parametrize(
    ("part", "arguments", "message"),
    [
        ({}, ["seed=0,1"], "either search or a grid"),
        ({}, ["search.batch=2"], r"search\.batch is set in the sweep's file"),
        ({"settings": {"a": []}}, [], "either search or settings"),
        ({"random": {"count": 1, "keys": {"seed": [0, 1]}}}, [], "either search or random"),
        (
            {},
            ["objective.beta1=0.5"],
            r"is one of search\.keys, and set by 'objective\.beta1=0\.5'",
        ),
    ],
)
def test_a_search_is_all_there_is(part, arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_of({"search": ASKED} | part, [*COMMON, *arguments])


def test_both_ends_of_the_space_must_be_able_to_start(tmp_path):
    with pytest.raises(ValueError, match=r"objective\.beta1=-1.*must be >= 0"):
        composed(tmp_path, keys={"objective.beta1": [-1, 1]})
    with pytest.raises(ValueError, match=r"evaluation\.every=0: no run would have it"):
        composed(tmp_path, "evaluation.every=0", metric="eval/avg_at_k")


def test_a_dry_run_shows_the_first_batch(tmp_path, capsys):
    asked = request(*OPTIONS.parse(["sweep=ce_gppo_search", "dry=true"]))
    assert sweep(asked, tmp_path) == 0
    shown = capsys.readouterr().out
    assert "the first 4 of 24 runs" in shown and shown.count("objective.beta2=") == 4
    assert list(tmp_path.iterdir()) == []


class Picky(FakeComposer):
    """Refuses points of the lower half, as a pair of values that do not go together is."""

    def trial(self, own):
        beta = [text for text in own if text.startswith("objective.beta1=")]
        if self.picky and beta and 0.0 < float(beta[0].partition("=")[2]) < self.picky:
            raise ValueError(f"{beta[0]}: not with the other one")
        return super().trial(own)

    picky = 0.0


def test_a_point_that_cannot_start_counts_and_the_search_goes_on(tmp_path):
    class Half(Picky):
        picky = 0.5

    def made(folder):
        search = Search(search_of(ASKED), Half(folder))
        first = search.first_batch()
        assert len(first) == ASKED["batch"]
        (folder / "made").mkdir(parents=True, exist_ok=True)
        # What was shown is what is made, and a refused point counts once.
        assert search.next_batch(SweepLedger(folder / "made")) == first == search.first_batch()
        assert len(search._past) == len(search._refused)
        return [trial.name for trial in first], list(search._refused)

    names, refused = made(tmp_path)
    assert refused and all("not with the other one" in text for text in refused)
    assert made(tmp_path) == (names, refused), "a resume suggests the same"


def test_a_search_without_a_point_that_can_start_is_refused(tmp_path):
    class No(Picky):
        picky = 1.0

    with pytest.raises(ValueError, match=r"no point of the search can start: .*not with the other"):
        Search(search_of(ASKED), No(tmp_path)).first_batch()
