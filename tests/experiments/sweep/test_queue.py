"""What a sweep is made of, and what becomes of its runs when some fail or the sweep is stopped."""

import asyncio
import io
import json
import signal
import time
from pathlib import Path

import pytest

from isentropic.experiments.commands.sweep import OPTIONS, request, sweep
from isentropic.experiments.program import DONE as CODE_DONE
from isentropic.experiments.program import RESUMABLE, STOPPED_BY_ALARM
from isentropic.experiments.run.prepare import Prepared
from isentropic.experiments.settings.overrides import read_preset
from isentropic.experiments.sweep import queue
from isentropic.experiments.sweep import table as sweep_table
from isentropic.experiments.sweep.draws import draw
from isentropic.experiments.sweep.ledger import (
    DONE,
    FAILED,
    INTERRUPTED,
    STOPPED,
    SweepLedger,
    write_plan,
)
from isentropic.experiments.sweep.plan import compose_trials, plan_of
from isentropic.experiments.sweep.queue import Sweep, ordered
from isentropic.experiments.sweep.table import SweepTable
from isentropic.records import Prompt
from isentropic.tasks.data.digest import DataDigest

CONF = Path(__file__).resolve().parents[3] / "conf"


def asked(*arguments):
    return request(*OPTIONS.parse(arguments))


def trials_of(tmp_path, *arguments, preset=None):
    plan = plan_of(preset or {}, ["experiment=ce_gppo_tiny", *arguments])
    return compose_trials(plan, tmp_path / "s", early_stop=False)


def test_points_of_a_grid():
    plan = plan_of({}, ["experiment=x", "objective.beta1=0,0.5,1", "seed=0,1"])
    assert plan.common == ("experiment=x",)
    assert plan.count == 6
    assert plan.points()[:3] == [
        (None, ("objective.beta1=0", "seed=0")),
        (None, ("objective.beta1=0", "seed=1")),
        (None, ("objective.beta1=0.5", "seed=0")),
    ]


def test_the_command_line_wins_over_a_preset():
    preset = {
        "overrides": ["run.steps=60"],
        "settings": {"a": ["method=grpo"], "b": []},
        "grid": {"seed": [0, 1, 2]},
    }
    plan = plan_of(preset, ["seed=7", "run.steps=9", "learner.lr=1e-3,1e-4"])
    assert plan.common == ("run.steps=60", "seed=7", "run.steps=9")  # Hydra takes the last
    assert plan.points() == [
        ("a, lr=0.001", ("method=grpo", "learner.lr=0.001")), ("a, lr=0.0001", ("method=grpo", "learner.lr=0.0001")),
        ("b, lr=0.001", ("learner.lr=0.001",)), ("b, lr=0.0001", ("learner.lr=0.0001",)),
    ]  # fmt: skip


def test_random_draws_are_those_of_their_seed():
    about = {
        "count": 50,
        "seed": 3,
        "keys": {"a": [0.0, 1.0], "b": {"log": [1e-5, 1e-3]}, "c": {"choice": [1, None]}},
    }
    points = draw(about)
    assert points == draw(about)
    assert points != draw(about | {"seed": 4})
    narrow = {"count": 50, "keys": {"learner.adam_beta2": [0.999, 0.99999]}}
    values = [float(text.partition("=")[2]) for ((text),) in draw(narrow)]
    assert len(set(values)) > 25  # four digits would leave ten
    assert all(0.999 <= value <= 0.99999 for value in values)
    values = [[override.partition("=")[2] for override in point] for point in points]
    assert all(
        0 <= float(a) <= 1 and 1e-5 <= float(b) <= 1e-3 and c in ("1", "null") for a, b, c in values
    )
    assert sum(float(b) < 1e-4 for _, b, _ in values) > 10  # uniform in the logarithm: half of them


@pytest.mark.parametrize(
    ("preset", "arguments", "message"),
    [
        pytest.param({}, ["run.steps=3"], "the sweep is empty", id="nothing is swept"),
        pytest.param({"grid": {"seed": []}}, [], "the grid is empty", id="a key without values"),
        pytest.param({"gird": {"seed": [1]}}, [], "Did you mean 'grid'", id="misspelled part"),
        pytest.param(
            {}, ["seed=0,1", "run.dir=x"], "set by the sweep", id="a key of the sweep's own"
        ),
        pytest.param(
            {"random": {"count": 2, "keys": {"a": [1, 0]}}},
            [],
            r"must be \[low, high\]",
            id="bounds reversed",
        ),
        pytest.param(
            {"random": {"count": 2, "keys": {"a": ["x", 1]}}},
            [],
            r"must be \[low, high\]",
            id="bounds that are no numbers",
        ),
        pytest.param({"random": {"count": 2, "keys": [1]}}, [], "needs count and keys", id="keys"),
        pytest.param(
            {"random": {"count": 2.5, "keys": {"a": [0, 1]}}},
            [],
            "random.count must be",
            id="count",
        ),
        pytest.param({"grid": [1, 2]}, [], "grid must be keys", id="a grid without keys"),
        pytest.param({"settings": 3}, [], "list of lists", id="settings that are a number"),
        pytest.param({"settings": {"a": "seed=1"}}, [], r"settings\.a must be a list", id="a text"),
        pytest.param({"list": ["seed=1"]}, [], r"list\[0\] must be a list", id="a flat list"),
        pytest.param({"overrides": "seed=1"}, [], "overrides must be a list", id="one override"),
        pytest.param({}, ["learner.beta1=0,1"], "is now learner.adam_beta1", id="an old key"),
    ],
)
def test_plans_that_cannot_be(preset, arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_of(preset, arguments)


def test_a_misspelled_key_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"Did you mean 'objective\.beta1'"):
        sweep(asked("name=s", "experiment=ce_gppo_tiny", "objective.beta11=0,1"), tmp_path)
    with pytest.raises(ValueError, match=r"objective\.beta1=-1: objective\.beta1 must be >= 0"):
        sweep(asked("name=s", "experiment=ce_gppo_tiny", "objective.beta1=0,-1"), tmp_path)
    with pytest.raises(ValueError, match=r"has 2000 runs\. If that is meant, say yes=true"):
        sweep(asked("name=s", "objective.beta1=range(0,100)", "seed=range(0,20)"), tmp_path)
    with pytest.raises(ValueError, match="no sweep to resume"):
        sweep(asked("name=s", "seed=0,1", "resume=auto"), tmp_path)
    with pytest.raises(ValueError, match="Did you mean 'parallel'"):
        asked("name=s", "seed=0,1", "parrallel=2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        ("a: [b", "cannot be read as YAML: .*line 1"),
        ("- a", "must hold keys"),
        (
            "a: " + "[" * 3000 + "]" * 3000,
            r"own\.yaml cannot be read as YAML: it is nested too deep",
        ),
        ("a: &a [*a]", r"own\.yaml cannot be read as YAML: .*holds itself"),
    ],
)
def test_a_file_that_is_no_sweep(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        sweep(asked(f"sweep={path}"), tmp_path)


def test_a_folder_is_one_sweeps(tmp_path):
    write_plan(tmp_path / "s", ["experiment=ce_gppo_tiny", "seed=0,1"], {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metrics.jsonl").touch()
    with pytest.raises(
        ValueError, match=r"was started with other arguments: experiment=ce_gppo_tiny seed=0,1\."
    ):
        sweep(asked("name=s", "seed=0,1,2", "resume=auto"), tmp_path)
    with pytest.raises(ValueError, match=r"no sweep to resume.*Sweeps here: s\.$"):
        sweep(asked("name=t", "resume=auto"), tmp_path)
    with pytest.raises(ValueError, match="already has a sweep"):
        sweep(asked("name=s", "seed=0,1"), tmp_path)
    with pytest.raises(ValueError, match="has files that are not a sweep's"):
        sweep(asked("name=other", "seed=0,1"), tmp_path)
    for again in ([], ["experiment=ce_gppo_tiny", "seed=0,1"]):
        assert sweep(asked("name=s", *again, "resume=auto", "dry=true"), tmp_path) == 0


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", '{"arguments": 3}', '{"arguments": [1]}', '{"x": 1}', "\xff"),
        *('{"arguments": "abc"}', "[" * 100_000),
    ],
)
def test_a_damaged_plan_is_named(tmp_path, text):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "sweep.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"sweep\.json does not say what the sweep was started with"
    ):
        sweep(asked("name=s", "resume=auto"), tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        *("3", "[]", '{"hash": 1, "state": "done"}', '{"hash": "a"}'),
        *('{"hash": "a", "state": 1}', '{"hash": "a", "state": []}', '{"hash": "a", "state": "x"}'),
        '{"hash": "a", "state": "done", "attempts": "2"}',
    ],
)
def test_a_damaged_ledger_is_named(tmp_path, line):
    (tmp_path / "sweep.jsonl").write_text(f'{{"hash": "a", "state": "done"}}\n{line}\n')
    with pytest.raises(ValueError, match=r"sweep\.jsonl line 2 is no row of a sweep"):
        SweepLedger(tmp_path)


def test_a_line_of_the_ledger_that_is_nested_too_deep(tmp_path):
    (tmp_path / "sweep.jsonl").write_text("[" * 100_000 + "\n")
    with pytest.raises(ValueError, match=r"sweep\.jsonl, line 1 is nested too deep"):
        SweepLedger(tmp_path)


@pytest.mark.parametrize("name", ["file", "file/s"])
def test_a_folder_that_is_a_file(tmp_path, name):
    (tmp_path / "file").touch()
    for make in (SweepLedger, lambda folder: write_plan(folder, [], {})):
        with pytest.raises(ValueError, match=r"cannot be made: .* is a file"):
            make(tmp_path / name)


@pytest.mark.parametrize("name", ["a" * 256, "a" * 256 + ".yaml"])
def test_a_preset_whose_name_is_too_long(name):
    with pytest.raises(ValueError, match=r"sweep=a+(\.yaml)?: no file can have this name"):
        read_preset(name)


def test_names_of_texts_are_as_typed(tmp_path):
    trials = trials_of(tmp_path, "run.label=1e5,2026_11", "tracking.project=1_0")
    assert [trial.config.run.label for trial in trials] == ["1e5", "2026_11"]
    assert trials[0].config.tracking.project == "1_0"


@pytest.mark.parametrize("preset", ["ce_gppo_fig3", "ce_gppo_fig5", "ce_gppo_fig6", "baselines"])
def test_presets_compose(preset, tmp_path, capsys):
    assert sweep(asked(f"sweep={preset}", "seed=0", "dry=true"), tmp_path) == 0
    assert "nothing was started" in capsys.readouterr().out


def test_the_baselines_are_what_they_are_called(tmp_path):
    """An experiment that set the objective itself would win over every method, in silence."""
    trials = compose_trials(
        plan_of(read_preset("baselines"), ["seed=0"]), tmp_path, early_stop=False
    )
    objectives = [trial.config.objective for trial in trials]
    assert [(each.name, each.ratio) for each in objectives] == [
        ("clip", "token"), ("clip", "token"), ("cispo", "token"), ("gspo", "sequence"),
        ("ce_gppo", "token"), ("ce_gppo", "token"),
    ]  # fmt: skip
    assert [each.clip_high for each in objectives[:2]] == [0.2, 0.28]
    assert [each.beta1 for each in objectives[4:]] == [0.5, 0.75]
    names = ["GRPO", "DAPO", "CISPO", "GSPO", "(0.5, 1)", "(0.75, 1)"]
    assert (
        [trial.config.run.label for trial in trials]
        == [trial.cfg.run.label for trial in trials]
        == names
    )
    assert trials[4].name.startswith("0.5_1-")


def test_each_run_has_a_folder_and_the_group_of_the_sweep(tmp_path):
    trials = trials_of(tmp_path, "seed=0,1")
    assert len({trial.config.run.dir for trial in trials}) == 2
    assert {Path(trial.config.run.dir).parent for trial in trials} == {tmp_path / "s"}
    assert {trial.config.tracking.group for trial in trials} == {"s"}
    assert {trial.config.resume.mode for trial in trials} == {"auto"}


def test_early_stop_gives_the_alarms_their_action(tmp_path):
    plan = plan_of({}, ["experiment=ce_gppo_tiny", "seed=0,1"])
    trial = compose_trials(plan, tmp_path, early_stop=True)[0]
    assert trial.config.alarms.rules["entropy_collapse"]["action"] == "stop"
    assert (
        trials_of(tmp_path, "seed=0,1")[0].config.alarms.rules["entropy_collapse"]["action"]
        == "none"
    )


def test_runs_that_can_share_actors_follow_each_other(tmp_path):
    trials = trials_of(tmp_path, "learner.lr=1e-3,1e-4", "rollout.temperature=1.0,0.8")
    temperatures = [trial.config.rollout.temperature for trial in ordered(trials)]
    assert temperatures == [1.0, 1.0, 0.8, 0.8]


class FakeSweep(Sweep):
    """Attempts do what `script` says: exit codes, or errors, by run and in order."""

    script: dict
    attempts: list

    async def _train(self, lane, trial, watch):
        await asyncio.sleep(0)
        self.attempts.append(trial.name)
        outcome = self.script[str(trial.config.seed)].pop(0)
        if outcome == RESUMABLE:
            self._signalled(signal.SIGTERM)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def run_fake(tmp_path, trials, script, parallel=1):
    folder = tmp_path / "s"
    table = SweepTable("s", [(trial.name, 1) for trial in trials], io.StringIO())
    ledger = SweepLedger(folder)
    fake = FakeSweep(folder, trials, ledger, table)
    fake.script, fake.attempts = script, []
    asyncio.run(fake.go(parallel))
    seeds = {trial.digest: str(trial.config.seed) for trial in trials}
    states = {seeds[digest]: (row["state"], row["attempts"]) for digest, row in ledger.rows.items()}
    return states, fake.attempts


def test_runs_are_prepared_one_after_the_other_and_their_data_is_read_once(tmp_path, monkeypatch):
    trials = trials_of(tmp_path, "seed=0,1", "rollout.max_prompt_tokens=20,30")
    read, under_way, most = [], 0, 0

    def prepare(config, known):
        nonlocal under_way, most
        under_way += 1
        tokens = config.rollout.max_prompt_tokens
        if known is None:
            read.append(tokens)
        else:
            assert known.dropped == {"train": tokens}
        time.sleep(0.05)  # for another to begin in
        most = max(most, under_way)
        under_way -= 1
        return Prepared(model=config.model, task=None, chat=None, dropped={"train": tokens})

    async def all_at_once():
        table = SweepTable("s", [(trial.name, 1) for trial in trials], io.StringIO())
        under_test = Sweep(tmp_path / "s", trials, SweepLedger(tmp_path / "s"), table)
        return await asyncio.gather(*(under_test._prepare(trial) for trial in trials))

    monkeypatch.setattr(queue, "prepare", prepare)
    prepared = asyncio.run(all_at_once())
    wanted = [trial.config.rollout.max_prompt_tokens for trial in trials]
    assert [one.dropped["train"] for one in prepared] == wanted
    assert sorted(read) == [20, 30]
    assert most == 1


def test_held_out_prompts_that_are_trained_on_are_said_once(tmp_path, monkeypatch):
    asked = [
        Prompt(prompt_id=str(n), messages=({"role": "user", "content": str(n)},), answer="")
        for n in range(3)
    ]
    data = DataDigest(None)
    for split, prompts in (("train", asked), ("eval", asked[:1])):
        for prompt in prompts:
            data.add(split, prompt)
    monkeypatch.setattr(
        queue,
        "prepare",
        lambda config, known: Prepared(
            model=config.model, task=None, chat=None, dropped={}, data=data
        ),
    )
    trials, said = trials_of(tmp_path, "seed=0,1"), io.StringIO()

    async def both():
        table = SweepTable("s", [(trial.name, 1) for trial in trials], said)
        under_test = Sweep(tmp_path / "s", trials, SweepLedger(tmp_path / "s"), table)
        for trial in trials:
            await under_test._prepare(trial)

    asyncio.run(both())
    assert said.getvalue().count("HELD-OUT PROMPTS ARE TRAINED ON TOO") == 1


@pytest.mark.parametrize("parallel", [1, 2, 9])
def test_a_failed_run_is_tried_once_more_and_the_others_go_on(tmp_path, parallel):
    trials = trials_of(tmp_path, "seed=0,1,2,3")
    script = {
        "0": [RuntimeError("engine 0 died"), CODE_DONE],
        "1": [RuntimeError("no"), ValueError("never")],
        "2": [STOPPED_BY_ALARM],
        "3": [CODE_DONE],
    }
    states, _ = run_fake(tmp_path, trials, script, parallel)
    assert states == {"0": (DONE, 2), "1": (FAILED, 2), "2": (STOPPED, 1), "3": (DONE, 1)}
    assert "ValueError: never" in (tmp_path / "s" / "logs" / f"{trials[1].name}.log").read_text()


def test_a_stopped_sweep_goes_on_where_it_was(tmp_path):
    trials = trials_of(tmp_path, "seed=0,1,2")
    states, _ = run_fake(tmp_path, trials, {"0": [CODE_DONE], "1": [RESUMABLE], "2": []})
    assert states == {"0": (DONE, 1), "1": (INTERRUPTED, 1)}

    with (tmp_path / "s" / "sweep.jsonl").open("a") as file:
        file.write('{"hash": "torn')
    states, attempts = run_fake(tmp_path, trials, {"1": [CODE_DONE], "2": [CODE_DONE]})
    assert attempts == [trials[1].name, trials[2].name]
    assert {state for state, _ in states.values()} == {DONE}


def test_the_table_shows_each_run():
    from rich.console import Console

    table = SweepTable("s", [("a", 4), ("b", 4)], io.StringIO())
    table.rows["a"].log(3, {"entropy/mean": 0.25, "time/step_s": 2.0, "eval/avg_at_k": None})
    table.rows["a"].log_alarm({"state": "raised", "rule": "entropy_collapse"})
    shown = io.StringIO()
    Console(file=shown, width=120).print(table.render())
    row = next(
        cells for line in shown.getvalue().splitlines() if (cells := line.split())[:1] == ["a"]
    )
    assert row == ["a", "waiting", "3/4", "0.250", "entropy_collapse"]


def test_steps_last_from_line_to_line(monkeypatch):
    """The first line of a resumed run brings its own time; behind it all that passes is the steps'."""
    clock = iter([100.0, 103.5, 107.0])
    monkeypatch.setattr(sweep_table.time, "monotonic", lambda: next(clock))
    row = sweep_table.Row("a", 4)
    for step in (2, 3, 4):
        row.log(step, {"time/step_s": 2.0})
    assert row.steps_s == 2.0 + 3.5 + 3.5
    row.begin()
    assert row.steps_s == 0.0


NOT_EQUAL = ("time/", "throughput/", "mismatch/", "sync/")


@pytest.mark.engine
def test_a_run_on_used_actors_is_a_run_on_new_ones(tmp_path, tiny_model_path, monkeypatch, capsys):
    """Two runs that differ in a tag alone: the second gets the actors that the first has trained with."""
    monkeypatch.chdir(tmp_path)
    small = [
        "experiment=ce_gppo_tiny", f"model.path={tiny_model_path}", "model.warm_start=null", "run.steps=2",
        "rollout.prompts_per_step=4", "learner.updates_per_rollout=2", "learner.num_ranks=1", "evaluation.every=0",
        "rollout.kv_cache_gib=0.125", "tracking.wandb=disabled", "cluster.object_store_gib=0.25",
        "filter=keep_all", "evaluation.prompts=2", "evaluation.samples=1",
        "rollout.max_prompt_tokens=64", "terms=entropy_bonus", "terms.entropy_bonus.coef=1.0", "learner.lr=1e-2",
    ]  # fmt: skip
    assert sweep(asked("name=s", "parallel=1", *small, "tracking.tags=[a],[b]"), tmp_path) == 0

    rows = [json.loads(line) for line in (tmp_path / "s" / "sweep.jsonl").read_text().splitlines()]
    over = [row for row in rows if row["state"] == DONE]
    assert [row["started_actors"] for row in over] == [True, False]
    first, second = (
        [
            json.loads(line)
            for line in (tmp_path / "s" / row["run"] / "metrics.jsonl").read_text().splitlines()
        ]
        for row in over
    )
    for one, two in zip(first, second, strict=True):
        assert one.keys() == two.keys()
        changed = [key for key in one if one[key] != two[key] and not key.startswith(NOT_EQUAL)]
        assert changed == []
    assert (
        first[2]["grad_norm/max"] > 0
    )  # a random model earns nothing; the entropy bonus trains it
    assert "<title>s: report</title>" in (tmp_path / "s" / "report.html").read_text()
    assert "cost of a run on actors that were there" in capsys.readouterr().out
