"""From planned runs to the JSON of a part: shared runs, paired differences, verdicts, figures."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isentropic.experiments.program import DONE as CODE_DONE
from isentropic.experiments.results.conclude import commands_of, conclude, draw, first_scores
from isentropic.experiments.results.cost import RECORDED, cost_of
from isentropic.experiments.results.numbers import (
    DIFFERENCES,
    books,
    budget_of,
    mean,
    own_base,
    pooled_errors,
    read_settings,
    rounded,
    score_at,
    setting_numbers,
    tokens_by_step,
    trend,
)
from isentropic.experiments.results.parts import Branching, parts_of
from isentropic.experiments.results.plan import planned_runs, settings_of
from isentropic.experiments.results.refusals import refusals
from isentropic.experiments.results.run import Places, make_results, states, write_totals
from isentropic.experiments.results.t3 import points_per_run, pool, possible_points
from isentropic.experiments.sweep.ledger import DONE, SweepLedger
from isentropic.metrics.report.branches import Branches
from isentropic.metrics.report.run_data import RunData
from isentropic.metrics.report.settings import Setting

START = {"GRPO": 0.30, "DAPO": 0.60, "(0.75, 1)": 0.4}
SWEEP = """
overrides: [experiment=ce_gppo_tiny]
settings:
  GRPO: [method=grpo]
  DAPO: [method=clip_higher]
  "(0.75, 1)": [method=ce_gppo, objective.beta1=0.75, objective.beta2=1.0]
grid: { seed: [0, 1, 2] }
"""


@pytest.fixture(scope="module")
def baselines(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    (root / "baselines.yaml").write_text(SWEEP)
    (part,) = parts_of(["baselines"])
    part = replace(part, sweep=str(root / "baselines.yaml"))
    return part, planned_runs(part, root / "runs"), root


def test_an_addition_is_compared_with_what_it_is_added_to():
    labels = ["GRPO", "CE-GPPO", "PAPO x GRPO", "PAPO x CE-GPPO", "OGER x steered"]
    assert [own_base(label, labels, "GRPO") for label in labels] == ["", "", "", "CE-GPPO", ""]
    curves = {"GRPO": 0.1, "CE-GPPO": 0.2, "PAPO x CE-GPPO": 0.5}

    def run(label, seed):
        lines = [{"step": step, "entropy/mean": curves[label] + 0.01 * seed} for step in (1, 2)]
        folder = Path(f"{label}-{seed}")
        return RunData(folder=folder, config={"seed": seed}, environment={}, lines=lines, alarms=[])

    settings = [
        Setting(label=label, values={}, runs=tuple(run(label, seed) for seed in range(3)))
        for label in curves
    ]
    drawn = {each.name: [1, 1] for setting in settings for each in setting.runs}
    rows = {row["label"]: row for row in setting_numbers(settings, "GRPO", drawn)}
    assert rows["PAPO x CE-GPPO"]["own_base"] == "CE-GPPO"
    assert rows["PAPO x CE-GPPO"]["against_own"]["entropy_mean"]["mean"] == pytest.approx(0.3)
    assert rows["PAPO x CE-GPPO"]["against_base"]["entropy_mean"]["mean"] == pytest.approx(0.4)


def table_row(label, *values, seeds=2):
    numbers = {key: {"values": list(values)} for key in DIFFERENCES}
    books = {"na_lp": {"values": [-value for value in values]}, "pa_hp": {"values": [1.0]}}
    return {"label": label, "seeds": list(range(seeds)), "numbers": numbers, "books": books}


def test_the_pooled_error_is_that_of_a_two_way_table():
    """Left once settings and seeds are taken off: a third, or two, of either sign; over 2 degrees."""
    rows = [table_row("a", 0, 0), table_row("b", 1, 3), table_row("c", 0, 0)]
    pooled = pooled_errors(rows)
    assert list(pooled) == list(DIFFERENCES)
    squares = 4 * (1 / 3) ** 2 + 2 * (2 / 3) ** 2
    for about in pooled.values():
        assert (about["freedom"], about["seeds"]) == (2, 2)
        assert about["error"] == pytest.approx(math.sqrt(2 * (squares / 2) / 2))
    # A row that lacks a seed is none of the table; two settings have no error but their own.
    assert pooled_errors([*rows, table_row("d", 7, seeds=1)]) == pooled
    assert pooled_errors([*rows, table_row("d", 7, math.nan)]) == pooled
    assert pooled_errors(rows[:2]) == {}


@pytest.mark.parametrize("rise", [0.0, 30.0])
def test_of_what_is_not_there_the_pooled_error_errs_as_students_t(rise):
    """Of settings alike, beside one that stands apart, which takes nothing from the others' error."""
    rng, found = np.random.default_rng(1), []
    for _ in range(2000):
        seeds = rng.normal(size=3)  # what a seed has in common
        values = rng.normal(size=(4, 3)) + seeds
        values[3] += rise
        error = pooled_errors([table_row(str(n), *row, seeds=3) for n, row in enumerate(values)])
        found.append((values[1] - values[0]).mean() / error["avg_last"]["error"])
    assert np.mean(np.abs(found) > 2.447) == pytest.approx(0.05, abs=0.02)  # t of 6 degrees


def test_a_trend_is_the_slope_per_place_of_each_seed():
    rows = [table_row("c", 4, 1), table_row("a", 0, 5), table_row("b", 2, 3), table_row("x", 9, 9)]
    pooled = pooled_errors(rows)
    found = trend(rows, ["a", "b", "c"], pooled)
    assert found["labels"] == ["a", "b", "c"]
    for key in DIFFERENCES:  # 0, 2, 4 and 5, 3, 1
        assert found["slopes"][key] == mean([2.0, -2.0])
        # Over places -1, 0, 1 a slope has half the variance of a mean; a difference has twice it.
        assert found["pooled"][key]["error"] == pytest.approx(pooled[key]["error"] / 2)
        assert found["pooled"][key]["freedom"] == pooled[key]["freedom"]
    # A class of which a run has no books has no slope.
    assert found["books"] == {"na_lp": mean([-2.0, 2.0])}
    assert trend(rows, ["a", "b", "gone"], pooled) == {}
    assert trend([*rows, table_row("d", 1, seeds=1)], ["a", "d"], pooled) == {}


def test_the_pooled_error_of_a_trend_errs_as_students_t():
    rng, found = np.random.default_rng(2), []
    for _ in range(2000):
        values = rng.normal(size=(5, 3)) + rng.normal(size=3)
        rows = [table_row(str(n), *row, seeds=3) for n, row in enumerate(values)]
        along = trend(rows, list("0123"), pooled_errors(rows))
        found.append(along["slopes"]["avg_last"]["mean"] / along["pooled"]["avg_last"]["error"])
    assert np.mean(np.abs(found) > 2.306) == pytest.approx(0.05, abs=0.02)  # t of 8 degrees


def test_a_command_has_of_each_key_what_counts(baselines):
    run = baselines[1][0]
    planned = replace(run, overrides=("a.b=1", "method=grpo", "a.b=2", "seed=0"))
    wanted = "python jobs/train.py run.name=again method=grpo a.b=2 seed=0"
    assert commands_of([planned]) == wanted


def test_a_part_is_concluded_from_its_runs(baselines, finish):
    part, runs, root = baselines
    ledger = SweepLedger(root / "runs")
    finish(runs, ledger, START)

    found = conclude(part, runs, ledger, root / "numbers", None)

    assert json.loads((root / "numbers" / "baselines.json").read_text()) == found
    assert found["runs"] == {"planned": 9, "over": 9}
    assert found["machines"] == ["2 CPUs, 8.0 GiB of memory, no GPU, Linux-6"]
    # Of each seed once, though three settings have it.
    assert found["start_avg"]["values"] == [0.3, 0.31, 0.32]
    assert found["commits"] == ["abcdef0123", "abcdef0123, changed"]
    assert found["hours"] == pytest.approx(9 * 60 * 2 / 3600)
    verdicts = {
        row["id"].split()[0]: (row["verdict"], row["decides"]) for row in found["statements"]
    }
    assert verdicts["T5"] == ("held", True)
    assert verdicts["T6"] == ("held", True)
    assert "T11" not in verdicts  # the part does not judge it
    rows = {row["label"]: row for row in found["settings"]}
    assert list(rows) == ["GRPO", "DAPO", "(0.75, 1)"]
    assert rows["DAPO"]["finished"] == 3
    ends = rows["DAPO"]["numbers"]["entropy_final"]
    assert ends["mean"] == pytest.approx(0.61 * (1 - 0.5 * 57.5 / 60), abs=0.004)
    assert ends["count"] == 3
    assert rows["DAPO"]["against_base"]["entropy_final"]["mean"] == pytest.approx(0.156, abs=0.006)
    assert rows["GRPO"]["against_base"] == {}
    assert (rows["DAPO"]["own_base"], rows["DAPO"]["against_own"]) == ("", {})
    assert rows["GRPO"]["books"]["pa_hp"]["mean"] == -0.001
    assert rows["DAPO"]["law"]["a"] > 0
    assert "method=clip_higher" in rows["DAPO"]["command"]
    assert "seed=0" in rows["DAPO"]["command"]
    assert found["pooled"]["avg_last"]["freedom"] == 4
    assert found["figures"] == [f"baselines/{name}.png" for name in ("entropy", "reward")]
    assert all((root / "numbers" / name).stat().st_size > 1000 for name in found["figures"])


def test_a_run_that_failed_is_seen(baselines, finish, tmp_path):
    part = baselines[0]
    runs = planned_runs(part, tmp_path / "runs")
    ledger = SweepLedger(tmp_path / "runs")
    failed = [run for run in runs if run.label == "DAPO" or (run.label, run.seed) == ("GRPO", 1)]
    finish([run for run in runs if run not in failed], ledger, START)

    found = conclude(part, runs, ledger, tmp_path / "numbers", None)

    rows = {row["label"]: row for row in found["settings"]}
    assert (rows["DAPO"]["finished"], rows["GRPO"]["finished"]) == (0, 2)
    assert rows["DAPO"]["numbers"]["avg_last"]["mean"] is None
    assert rows["DAPO"]["law"]["why"] == "no run came to its end"
    t6 = next(row for row in found["statements"] if row["id"] == "T6 (0.75, 1)")
    assert t6["verdict"] == "undecided"
    assert t6["number"].endswith("4 of the part's runs did not come to their end")


def test_hours_are_those_of_all_attempts(tmp_path):
    ledger = SweepLedger(tmp_path)
    for state, seconds in (("running", None), ("interrupted", 3600.0), ("done", 1800.0)):
        about = {} if seconds is None else {"seconds": seconds}
        ledger.write("aa", run="one", state=state, attempts=1, **about)
    ledger.write("bb", run="two", state="failed", attempts=1, seconds=100.0)  # not over
    for each in (ledger, SweepLedger(tmp_path)):  # read again too
        write_totals(each, tmp_path)
        found = json.loads((tmp_path / "totals.json").read_text())
        assert found == {ledger.began: {"runs": 1, "hours": 1.5}}
    # The ledger of another machine, whose runs are none of these.
    other = SweepLedger(tmp_path / "other")
    other.began = "2026-01-01T00:00:00+00:00"
    other.write("aa", run="one", state="done", attempts=1, seconds=3600.0)
    write_totals(SweepLedger(tmp_path / "other"), tmp_path)
    found = json.loads((tmp_path / "totals.json").read_text())
    assert found == {
        ledger.began: {"runs": 1, "hours": 1.5},
        "2026-01-01T00:00:00+00:00": {"runs": 1, "hours": 1.0},
    }


def test_runs_that_are_over_are_neither_counted_nor_trained_again(baselines, finish):
    part, runs, root = baselines
    ledger = SweepLedger(root / "runs")
    finish(runs, ledger, START)
    places = Places(runs=root / "runs", results=root / "numbers")
    said = []

    assert make_results([part], places, say=said.append) == CODE_DONE  # no engine is started

    assert any("9 runs, all done" in line for line in said)
    assert any(line.startswith("T5") and "held" in line for line in said)


def test_a_part_says_what_it_costs_before_it_starts(baselines, tmp_path):
    runs = baselines[1]
    fresh = cost_of(runs, None)
    assert (fresh.left, fresh.seconds) == (9, 9 * 60 * RECORDED["arithmetic"])
    ledger = SweepLedger(tmp_path)
    for run, start in zip(runs[:2], (60.0, 0.0), strict=True):  # the first starts the actors
        about = {"seconds": 180.0 + start, "overhead_s": start, "started_actors": start > 0}
        ledger.write(run.trial.digest, run=run.trial.name, state=DONE, attempts=1, **about)
    assert str(cost_of(runs, ledger)) == (
        "9 runs, 7 to do, about 21 min (3.0 s per step over 2 runs here)"
    )
    assert cost_of(runs, ledger, parallel=2).seconds == 7 * 180 / 2


def test_a_task_without_a_figure_is_measured_first(tmp_path):
    (part,) = parts_of(["second_task"])
    places = Places(runs=tmp_path / "no", results=tmp_path)
    line, together = states([(part, planned_runs(part, tmp_path))], places, None)
    assert "12 to do, minutes not known yet (measured on the first of them)" in line
    assert together.startswith("together     12 runs, ")
    assert not (tmp_path / "no").exists()


def run_with(scores, steps=4):
    lines = [{"step": 0, "eval/avg_at_k": 0.1}]
    lines += [{"step": step, "eval/avg_at_k": scores[step - 1]} for step in range(1, steps + 1)]
    return RunData(folder=None, config={}, environment={}, lines=lines, alarms=[])


def test_where_runs_began_is_known_if_they_were_scored_there():
    """By seed, each once; the first score of a run that was not is of a later step."""
    run = run_with([0.2, 0.3, 0.4, 0.5])
    seeds = [
        replace(run, config={"seed": 2}),
        replace(run, config={"seed": 0}, lines=[{"step": 0, "eval/avg_at_k": 0.7}]),
        replace(run, config={"seed": 1}, lines=run.lines[1:]),
    ]
    assert first_scores([Setting(label="a", values={}, runs=tuple(seeds))]) == [0.7, 0.1]


@pytest.mark.parametrize(
    ("budget", "score"), [(50, 0.15), (100, 0.2), (250, 0.35), (300, 0.4), (10_000, 0.5)]
)
def test_a_score_at_equal_tokens_lies_between_its_evaluations(budget, score):
    assert score_at(run_with([0.2, 0.3, 0.4, 0.5]), [100, 100, 100, 100], budget) == (
        pytest.approx(score)
    )


def test_a_few_tokens_more_or_less_do_not_cost_an_evaluation():
    scores, tokens = [0.2, 0.3, 0.4, 0.5], [100, 100, 100, 100]
    short = score_at(run_with(scores), tokens, 400)
    long = score_at(run_with(scores), [100, 100, 100, 101], 400)
    assert (short, long) == (0.5, pytest.approx(0.499, abs=1e-4))


def test_without_a_score_within_the_budget_there_is_none():
    run = run_with([0.2, 0.3, 0.4, 0.5])
    run = replace(run, lines=run.lines[1:])  # not scored at the start
    assert math.isnan(score_at(run, [100, 100, 100, 100], 50))


def test_the_budget_is_what_every_run_has_drawn():
    assert budget_of({"a": [5, 5], "b": [20, 20]}) == 10
    assert budget_of({"a": [5, 5], "b": []}) == 0


def test_tokens_are_those_that_the_policy_drew(tmp_path):
    (tmp_path / "rollouts").mkdir()
    columns = {
        "origin": ["policy", "policy", "teacher:solver"],
        "rollout_logprob": [[-1.0] * 3, [-1.0] * 4, [-1.0] * 50],
    }
    pq.write_table(pa.table(columns), tmp_path / "rollouts" / "step_000001.parquet")
    run = replace(run_with([0.2], steps=1), folder=tmp_path)
    assert tokens_by_step(run) == [7]
    with pytest.raises(ValueError, match=r"step_000002\.parquet is gone"):
        tokens_by_step(replace(run_with([0.2, 0.3], steps=2), folder=tmp_path))


def test_a_step_that_trains_nothing_is_in_the_mean_of_the_books():
    """Measured at steps 2 and 4; at step 4 the queue was not full yet."""
    run = run_with([0.2, 0.3, 0.4, 0.5])
    run.lines[2]["ledger/pa_hp"] = -0.004
    config = {"accounting": {"ledger": {"every": 2}}}
    setting = Setting(label="UEC-RL", values={}, runs=(replace(run, config=config),))
    assert books(setting)["pa_hp"]["values"] == [-0.002]


def test_what_is_no_number_is_null():
    assert rounded(mean([0.123456789, math.nan])) == {
        "mean": 0.123457,
        "error": None,
        "count": 1,
        "values": [0.123457, None],
    }


def test_methods_that_do_not_compose_are_refused_by_name():
    found = refusals(["ce_gppo_steered"], ["papo", "oger"])
    assert "steering=steered with reweight=polarity" in found[0]["refused"]
    assert "both set filter: 'drop_flat' and 'keep_all'" in found[1]["refused"]
    assert refusals(["grpo"], ["papo"])[0]["refused"] is None


def test_a_model_that_is_not_there_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("ISENTROPIC_CACHE", str(tmp_path / "empty"))
    places = Places(runs=tmp_path / "runs", results=tmp_path)
    with pytest.raises(ValueError, match="make smollm2"):
        make_results(parts_of(["smollm2"]), places)
    assert not places.runs.exists()


def branch_rows(folder, run, points, settings='{"a": 1}'):
    folder.mkdir()
    (folder / "settings.json").write_text(settings)
    rows = [{"step": step, "setting": "a", "run": run, "entropy": 1.0} for step in range(points)]
    (folder / "branches.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_branches_of_several_runs_are_pooled(tmp_path):
    made = {branch_rows(tmp_path / name, name, 5): range(5) for name in ("one", "two")}
    assert Branches(pool(made, tmp_path / "pooled")).num_points == 10  # equal steps, other runs
    fewer = {key: [0, 3] for key in made}  # an earlier start was asked for more
    assert Branches(pool(fewer, tmp_path / "fewer")).num_points == 4
    made[branch_rows(tmp_path / "three", "three", 5, settings='{"b": 1}')] = range(5)
    with pytest.raises(ValueError, match="different settings"):
        pool(made, tmp_path / "again")


def test_t3_takes_its_points_from_the_pilot(tmp_path):
    (part,) = parts_of(["t3"])
    runs = planned_runs(part, tmp_path)
    assert possible_points(range(1, 45)) == list(range(1, 44))
    with pytest.raises(ValueError, match=r"Run the pilot first: python jobs/results\.py t3_pilot"):
        points_per_run(part, tmp_path, runs)
    for needed, points in ((40, 5), (100, 13), (1000, 20), (None, 20)):
        about = {"points": {"needed": {"T3 beta1": needed, "T3 DAPO": 40}}}
        (tmp_path / "t3_pilot.json").write_text(json.dumps(about))
        assert points_per_run(part, tmp_path, runs) == points
    fixed = replace(part, branching=Branching(sweep="ce_gppo_t3", points=3))
    assert points_per_run(fixed, tmp_path, runs) == 3


def test_branches_without_their_pilot_are_refused_before_anything_starts(tmp_path):
    places = Places(runs=tmp_path / "runs", results=tmp_path)
    with pytest.raises(ValueError, match="Run the pilot first"):
        make_results(parts_of(["t3"]), places)
    assert not places.runs.exists()


def test_figures_have_as_many_lines_as_there_are_colours(baselines, finish, tmp_path):
    part, runs, root = baselines
    finish(runs, SweepLedger(root / "runs"), START)
    settings = read_settings(settings_of(runs)) * 3  # 9 settings, 3 of them the base
    files = draw(replace(part, name="many"), settings, tmp_path)
    assert {name.partition("/")[0] for name in files} == {"many-1", "many-2"}
    assert np.all([(tmp_path / name).is_file() for name in files])


@pytest.mark.parametrize(("count", "sizes"), [(1, []), (8, [8]), (9, [5, 5]), (23, [6, 7, 6, 7])])
def test_each_figure_of_many_settings_has_the_base(count, sizes, baselines, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "isentropic.experiments.results.conclude.write_static",
        lambda settings, folder: drawn.append([each.label for each in settings]) or [],
    )
    labels = ["GRPO", *(f"other {n}" for n in range(count - 1))]
    settings = [Setting(label=label, values={}, runs=("a run",)) for label in labels]
    draw(baselines[0], settings, tmp_path)
    assert [len(group) for group in drawn] == sizes
    assert all(group[0] == "GRPO" for group in drawn)
    assert sorted({label for group in drawn for label in group}) == sorted(labels if sizes else [])
