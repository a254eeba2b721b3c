"""What outlives the run folders: the same tables and verdicts, from one small file a run."""

import json
import lzma
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isentropic.experiments.program import DONE as CODE_DONE
from isentropic.experiments.results.archive import FOLDER, archive, archive_branches
from isentropic.experiments.results.numbers import rounded, tokens_by_step
from isentropic.experiments.results.parts import Branching, parts_of
from isentropic.experiments.results.plan import planned_runs
from isentropic.experiments.results.run import Places, make_results, planned_parts, states
from isentropic.experiments.results.t3 import branch_numbers
from isentropic.experiments.statements.branches import branch_statements
from isentropic.experiments.statements.runs import updates_of
from isentropic.experiments.sweep.ledger import SweepLedger
from isentropic.metrics.report.run_data import read_run

START = {"GRPO": 0.30, "DAPO": 0.60}
SWEEP = """
overrides: [experiment=ce_gppo_tiny]
settings:
  GRPO: [method=grpo]
  DAPO: [method=clip_higher]
grid: { seed: [0, 1] }
"""
UPDATE = {"clip/low_frac": 0.1 / 3, "clip/high_frac": 0.02, "clip/frac": 0.05, "loss": 0.7}
UPDATE |= {"drift/low": -1e-5, "drift/high": 1e-5, "lp_given_low": 0.5, "lp_given_high": 0.6}
UPDATE |= {f"frac/{name}": 0.25 for name in ("pa_hp", "pa_lp", "na_hp", "na_lp")}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Figures take most of a part's time, and are looked at elsewhere."""
    monkeypatch.setattr(
        "isentropic.experiments.results.conclude.write_static", lambda settings, folder: []
    )


@pytest.fixture
def part(tmp_path):
    (tmp_path / "baselines.yaml").write_text(SWEEP)
    (part,) = parts_of(["baselines"])
    return replace(part, sweep=str(tmp_path / "baselines.yaml"))


@pytest.fixture
def places(tmp_path):
    return Places(runs=tmp_path / "runs", results=tmp_path / "numbers")


@pytest.fixture
def finished(part, places, finish):
    runs, ledger = planned_runs(part, places.runs), SweepLedger(places.runs)
    finish(runs, ledger, START)
    for run in runs:
        (run.folder / "tokens.json").unlink()
        lengths = [[0.0] * 3, [0.0] * (4 + run.seed)]
        table = pa.table({"origin": ["policy", "policy"], "rollout_logprob": lengths})
        for step in range(1, 61):
            pq.write_table(table, run.folder / "rollouts" / f"step_{step:06}.parquet")
        updates = [{"step": 1, "update": n, "skipped": n == 1} | UPDATE for n in range(3)]
        (run.folder / "updates.jsonl").write_text("".join(json.dumps(u) + "\n" for u in updates))
        ledger.write(run.trial.digest, run=run.trial.name, state="done", attempts=2, seconds=30.0)
    return runs


def test_the_archive_gives_the_same_numbers(part, places, finished, tmp_path):
    assert make_results([part], places) == CODE_DONE
    written = json.loads((places.results / "baselines.json").read_text())
    totals = json.loads((places.results / "totals.json").read_text())

    gone, said = replace(places, runs=tmp_path / "elsewhere"), []
    assert make_results([part], gone, recorded=True, say=said.append) == CODE_DONE

    assert said[0] == f"baselines: its 4 runs are taken from {places.results}; they are not trained"
    again = json.loads((places.results / "baselines.json").read_text())
    assert_near(leaves(again), leaves(written))
    assert written["settings"][0]["numbers"]["tokens"]["values"] == [60 * 7, 60 * 8]
    assert json.loads((places.results / "totals.json").read_text()) == totals
    began = SweepLedger(places.runs).began
    assert totals == {began: {"runs": 4, "hours": pytest.approx(4 * 150 / 3600, rel=1e-4)}}
    (again, *_) = planned_runs(part, gone.runs / "kept" / "baselines")
    before, after = (read_run(run.folder, ended=True) for run in (finished[0], again))
    assert tokens_by_step(after) == tokens_by_step(before) == [7] * 60
    assert [row["update"] for row in updates_of(after)] == [0, 2]  # one was skipped
    assert updates_of(after)[0]["clip/low_frac"] == 0.03333333
    assert after.config == before.config


@pytest.mark.parametrize("state", ["interrupted", "failed", None])
def test_a_part_of_which_a_run_is_not_over_has_no_files(state, part, places, finished):
    """A part is made on one machine, or its files would be of two."""
    ledger = SweepLedger(places.runs)
    if state:
        first = finished[0].trial
        ledger.write(first.digest, run=first.name, state=state, attempts=1)
    else:
        (places.runs / "sweep.jsonl").unlink()
        ledger = SweepLedger(places.runs)
    assert archive("baselines", finished, ledger, places.results) == 0
    assert not (places.results / FOLDER).exists()


def test_what_is_kept_of_a_part_is_mixed_with_nothing(part, places, finished, tmp_path):
    """Neither with run folders that are there, nor with runs that would have to be trained."""
    archive("baselines", finished, SweepLedger(places.runs), places.results)
    kept = _score(part, places, recorded=True)
    finished[0].folder.joinpath("metrics.jsonl").write_text("")
    before = [path.read_bytes() for path in sorted(places.runs.glob("*/*")) if path.is_file()]
    assert _score(part, places, recorded=True) == kept
    assert [
        path.read_bytes() for path in sorted(places.runs.glob("*/*")) if path.is_file()
    ] == before

    gone, said = replace(places, runs=tmp_path / "elsewhere"), []
    assert _state_of(part, places).startswith("done ")
    assert _state_of(part, gone).startswith("kept ")  # as in a clone, which has the files alone
    assert "recorded=true makes" in list(states(planned_parts([part], gone), gone, None))[-1]
    (file, *_) = (places.results / FOLDER / "baselines").iterdir()
    file.unlink()
    assert _state_of(part, gone).startswith("to do ")

    def stop(text):
        said.append(text)
        if text.startswith("baselines: 4 runs, 4 to do"):
            raise Started

    with pytest.raises(Started):
        make_results([part], gone, recorded=True, say=stop)
    assert "not all runs of these are kept, so all are trained, on one machine: baselines" in said


def _state_of(part, places):
    return next(states(planned_parts([part], places), places, None)).split(maxsplit=1)[1]


def _score(part, places, **options):
    assert make_results([part], places, say=lambda text: None, **options) == CODE_DONE
    found = json.loads((places.results / "baselines.json").read_text())
    return found["settings"][0]["numbers"]


def test_two_parts_may_keep_another_run_of_one_name_each(part, places, finished, tmp_path):
    """Each is made of its own: a run that they share may have been trained on two machines."""
    other = replace(part, name="fig3")
    archive("baselines", finished, SweepLedger(places.runs), places.results)
    for run in finished:
        lines = (run.folder / "metrics.jsonl").read_text().splitlines()
        moved = [json.loads(line) for line in lines]
        for line in moved:
            if "entropy/mean" in line:
                line["entropy/mean"] += 1.0
        text = "".join(json.dumps(line) + "\n" for line in moved)
        (run.folder / "metrics.jsonl").write_text(text)
    archive("fig3", finished, SweepLedger(places.runs), places.results)

    gone = replace(places, runs=tmp_path / "elsewhere")
    assert make_results([part, other], gone, recorded=True) == CODE_DONE
    one, two = (
        json.loads((places.results / f"{name}.json").read_text())["settings"][0]["numbers"]
        for name in ("baselines", "fig3")
    )
    assert two["entropy_final"]["mean"] == pytest.approx(
        one["entropy_final"]["mean"] + 1.0, rel=1e-4
    )


def test_branches_that_are_not_kept_ask_for_runs(part, places, finished, tmp_path):
    archive("baselines", finished, SweepLedger(places.runs), places.results)
    gone = replace(places, runs=tmp_path / "elsewhere")
    branched = replace(part, branching=Branching(sweep="ce_gppo_t3", points=2))
    with pytest.raises(Started):
        make_results([branched], gone, recorded=True, say=_stop)


ENDS = """
settings:
  GRPO: [method=grpo]
  DAPO: [method=clip_higher]
"""


@pytest.fixture
def branched(part, tmp_path):
    """The part with branches, 20 points of each run."""
    (tmp_path / "ends.yaml").write_text(ENDS)
    branching = Branching(sweep=str(tmp_path / "ends.yaml"), points=20)
    return replace(part, branching=branching, statements=("T3",))


@pytest.fixture
def made(finished, places, tmp_path):
    """Its pooled branches, kept beside the runs."""
    made = tmp_path / "made"
    made.mkdir()
    clip = {"name": "clip", "ratio": "token", "clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}
    told = {
        "GRPO": {"overrides": ["method=grpo"], "objective": clip},
        "DAPO": {"overrides": ["method=clip_higher"], "objective": clip | {"clip_high": 0.28}},
    }
    (made / "settings.json").write_text(json.dumps(told))
    rows = [
        {"run": run.trial.name, "step": step, "setting": label, "entropy": 0.3 + 1e-4 * more / 7}
        | {"entropy_trained": 0.2, "entropy_held_out": 0.4, "clip_frac": 0.01, "kl_k1": 0.5}
        for run in finished
        for step in range(1, 21)
        for label, more in (("GRPO", 1.0), ("DAPO", 1.0 + (run.seed + 1) / step**0.5))
    ]
    (made / "branches.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    archive("baselines", finished, SweepLedger(places.runs), places.results)
    archive_branches("baselines", made, places.results)
    return made


def test_branches_that_are_kept_are_neither_trained_nor_made_again(
    branched, places, made, tmp_path
):
    """All that is said of them comes out the same, to the last digit, whenever it is asked for."""
    (judged,) = branch_statements(made)
    gone, said = replace(places, runs=tmp_path / "elsewhere"), []
    for _ in range(2):
        assert make_results([branched], gone, recorded=True, say=said.append) == CODE_DONE
        found = json.loads((places.results / "baselines.json").read_text())
        command = found["branches"].pop("command")
        assert command.startswith("python jobs/branch.py run=again sweep=")
        assert command.endswith(" contexts=256 orders=1 steps=" + ",".join(map(str, range(1, 21))))
        assert found["branches"] == rounded(branch_numbers(made))
        (statement,) = found["statements"]
        assert (statement["verdict"], statement["number"]) == (judged.verdict, judged.number)
        assert "80 points" in statement["number"]
    kept = f"baselines: its 4 runs are taken from {places.results}; they are not trained"
    assert said.count(kept) == 2


@pytest.mark.parametrize(
    "change",
    ["another run", "runs of another training", "other settings", "another arm", "more points"],
)
def test_branches_of_something_else_are_trained_for(
    change, branched, places, made, finished, tmp_path
):
    elsewhere = replace(places, runs=tmp_path / "elsewhere")
    if change == "another run":
        rows = (made / "branches.jsonl").read_text().splitlines(keepends=True)
        (made / "branches.jsonl").write_text("".join(rows[40:]))
        archive_branches("baselines", made, places.results)
    elif change == "runs of another training":
        ledger = SweepLedger(places.runs)
        for run in finished:
            name = run.trial.name
            ledger.write(run.trial.digest, run=name, state="done", attempts=3, seconds=9.0)
        assert archive("baselines", finished, ledger, places.results) == 4
    elif change == "another arm":
        (tmp_path / "ends.yaml").write_text(ENDS.replace("clip_higher", "cispo"))
    elif change == "other settings":
        branched = replace(branched, branching=Branching(sweep="ce_gppo_t3", points=20))
    else:
        branched = replace(branched, branching=replace(branched.branching, points=21))
    with pytest.raises(Started):
        make_results([branched], elsewhere, recorded=True, say=_stop)


def test_a_run_that_is_over_and_gone_is_refused(part, places, finished):
    """Its numbers would be those of nothing, and stand in the place of good ones."""
    assert make_results([part], places, say=lambda text: None) == CODE_DONE
    before = (places.results / "baselines.json").read_bytes()
    for name in ("config.yaml", "metrics.jsonl", "rollouts"):
        path = finished[1].folder / name
        away = path.rename(path.with_name("away"))
        wanted = rf"has no {name}, and by .*sweep\.jsonl the run is over"
        with pytest.raises(ValueError, match=wanted):
            make_results([part], places, say=lambda text: None)
        away.rename(path)
    shutil.rmtree(finished[1].folder)
    with pytest.raises(ValueError, match=r"has no config\.yaml, metrics\.jsonl, rollouts, and by"):
        make_results([part], places, say=lambda text: None)
    assert (places.results / "baselines.json").read_bytes() == before
    assert make_results([part], places, recorded=True, say=lambda text: None) == CODE_DONE


def test_what_is_kept_is_made_into_another_folder(branched, places, made, tmp_path):
    elsewhere = Places(runs=tmp_path / "new", results=tmp_path / "out", kept=places.results)
    assert _state_of(branched, elsewhere).startswith("kept ")
    assert make_results([branched], elsewhere, recorded=True, say=lambda text: None) == CODE_DONE
    assert json.loads((tmp_path / "out" / "baselines.json").read_text())["branches"]["points"] == 80
    assert not (places.results / "baselines.json").exists()


def test_a_damaged_file_is_said(branched, places, made, tmp_path):
    gone = replace(places, runs=tmp_path / "elsewhere")
    files = places.results / FOLDER / "baselines"
    for file in (files / "branches.json.xz", next(files.glob("clip-*"))):
        kept = file.read_bytes()
        for damaged in (b"no archive", kept[:-9]):
            file.write_bytes(damaged)
            wanted = rf"{file.name} cannot be read .* remove it to have made again"
            with pytest.raises(ValueError, match=wanted):
                make_results([branched], gone, recorded=True, say=lambda text: None)
        file.write_bytes(kept)


OTHER_SHAPES = ([], {}, {"rows": 3, "row": 3}, {"rows": {"run": [1], "setting": []}}, "text", None)


@pytest.mark.parametrize("packed", OTHER_SHAPES, ids=str)
def test_sound_json_of_something_else_is_said_too(branched, places, made, tmp_path, packed):
    gone = replace(places, runs=tmp_path / "elsewhere")
    other = lzma.compress(json.dumps(packed).encode())
    branches = places.results / FOLDER / "baselines" / "branches.json.xz"
    kept = branches.read_bytes()
    branches.write_bytes(other)
    with pytest.raises(ValueError, match=r"branches\.json\.xz cannot be read"):
        make_results([branched], gone, recorded=True, say=lambda text: None)
    branches.write_bytes(kept)
    run = next(path for path in branches.parent.iterdir() if path != branches)
    run.write_bytes(other)
    with pytest.raises(ValueError, match=rf"{run.name} cannot be read"):
        make_results([branched], replace(places, runs=tmp_path / "third"), recorded=True)


def test_a_run_that_was_trained_again_has_a_file_of_that_training(part, places, finished):
    ledger = SweepLedger(places.runs)
    assert archive("baselines", finished, ledger, places.results) == 4
    assert archive("baselines", finished, ledger, places.results) == 0
    again = finished[0].trial
    ledger.write(again.digest, run=again.name, state="done", attempts=3, seconds=40.0)
    assert archive("baselines", finished, ledger, places.results) == 1
    assert archive("baselines", finished, SweepLedger(places.runs), places.results) == 0


def leaves(value, name=""):
    """Return numbers and words by their place."""
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for at, one in inner for key, leaf in leaves(one, f"{name}/{at}").items()}
    return {name: value}


def assert_near(after, before):
    """Equal, numbers to the digits that are kept."""
    assert after.keys() == before.keys()
    for place, value in before.items():
        near = isinstance(value, float)
        assert after[place] == (pytest.approx(value, rel=1e-4) if near else value), place


class Started(Exception):
    """Training would begin."""


def _stop(text):
    if "4 runs, 4 to do" in text:
        raise Started
