"""Which checkpoint is scored, on what: taken apart and refused before anything starts."""

import json

import pytest

from isentropic.experiments.commands.evaluate import (
    OPTIONS,
    checkpoint_of,
    evaluated_config,
    record,
    run_evaluation,
)
from isentropic.experiments.run.recorded import RecordedRun


def test_which_checkpoint(recorded):
    run = RecordedRun(recorded[0])
    assert checkpoint_of(run, "last").name == "step_000005"
    assert checkpoint_of(run, 2).name == "step_000002"
    assert checkpoint_of(run, "start") is None
    with pytest.raises(ValueError, match="no whole checkpoint of step 3; it has: 2, 4, 5"):
        checkpoint_of(run, 3)


def test_what_is_evaluated_otherwise(recorded):
    run = RecordedRun(recorded[0])
    config = evaluated_config(run, {"samples": 16, "temperature": 0.6})
    assert (config.evaluation.samples, config.evaluation.temperature) == (16, 0.6)
    assert config.evaluation.top_p == run.config.evaluation.top_p
    assert config.evaluation.prompts > 10**9  # all there are
    assert evaluated_config(run, {"task": "reasoning_gym"}).task.name == "reasoning_gym"


def test_a_benchmark_needs_no_problems_to_train_on(recorded):
    run = RecordedRun(recorded[0])
    options, overrides = OPTIONS.parse(["x", "task=aime24", "task.eval_path=aime24.jsonl"])
    task = evaluated_config(run, options, overrides).task
    assert (task.eval_path, task.path) == ("aime24.jsonl", "aime24.jsonl")
    assert evaluated_config(run, {"task": "aime24"}).task.train_split == "train"
    for given in ({}, options):
        with pytest.raises(ValueError, match=r"'seed=1' is no option of evaluate"):
            evaluated_config(run, given, ["seed=1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["run=x", "sampels=4"], "Did you mean 'samples'", id="misspelled option"),
        pytest.param(["samples=4"], "which run", id="no run"),
        pytest.param(["run=x", "step=first"], "step must be a number.*last, start", id="no step"),
        pytest.param(["run=x", "step=²"], "step must be a number", id="a digit that is no number"),
        pytest.param(["run=x", "samples=many"], "samples must be a number", id="a word"),
        pytest.param(["run=x", "samples=0"], "samples must be >= 1", id="no samples"),
        pytest.param(["run=x", "top_p=all"], "top_p must be a number", id="a word for a float"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        OPTIONS.parse(arguments)


def test_bad_numbers(recorded):
    run = RecordedRun(recorded[0])
    for options, message in (
        ({"top_p": 2.0}, r"evaluation\.top_p must be > 0 and <= 1"),
        ({"task": "arithmetics"}, "Did you mean 'arithmetic'"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluated_config(run, options)


def test_lines_are_kept(tmp_path, capsys):
    record(tmp_path, {"step": 5, "eval/avg_at_k": 0.25})
    record(tmp_path, {"step": 2, "eval/avg_at_k": 0.125})
    lines = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert [line["eval/avg_at_k"] for line in lines] == [0.25, 0.125]
    assert "0.1250" in capsys.readouterr().out


def test_greedy_samples_are_all_the_same(recorded):
    run = RecordedRun(recorded[0])
    with pytest.raises(ValueError, match=r"evaluation.samples=8 with evaluation.temperature=0"):
        evaluated_config(run, {"temperature": 0.0, "samples": 8})
    assert evaluated_config(run, {"temperature": 0.0, "samples": 1}).evaluation.temperature == 0


def test_a_line_is_added_behind_what_others_wrote(tmp_path):
    (tmp_path / "evaluations.jsonl").write_text('{"step": 1, "eval/av')  # of a killed process
    for step in (1, 2):
        record(tmp_path, {"step": step, "eval/avg_at_k": float("nan")})
    lines = (tmp_path / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": step, "eval/avg_at_k": None} for step in (1, 2)
    ]


def test_the_start_is_the_model_of_the_runs_own_task(recorded, tmp_path, monkeypatch):
    """A model that is made on the spot would be made on the task that is evaluated."""
    seen = []

    async def stub(config, checkpoint):
        seen.append((config.model.path, config.task.name, checkpoint))
        return {}

    monkeypatch.setattr("isentropic.experiments.commands.evaluate.evaluate", stub)
    monkeypatch.setattr(
        "isentropic.models.source.model_folder", lambda model, task: f"made on {task.name}"
    )
    monkeypatch.setattr("isentropic.experiments.commands.evaluate.record", lambda *args: None)
    run_evaluation({"run": str(recorded[0]), "step": "start", "task": "sorting"}, [])
    assert seen == [("made on arithmetic", "sorting", None)]
