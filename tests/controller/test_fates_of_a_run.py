"""The files of a whole run on fakes: each rollout of the ledger has one fate."""

import pyarrow.parquet as pq
import pytest

from isentropic.methods.oger.teachers import TeacherResponse, write_teachers


def rows(path):
    return pq.read_table(path).to_pylist()


def key(row):
    return tuple(row[name] for name in ("split", "draw", "wave", "sample"))


METHODS = {
    "ce_gppo": [],
    "dapo": ["method=dapo", "sampling.draw_prompts=6"],
    "oger": ["method=oger", "oger.cache=null", "oger.teachers={folder}/teachers.jsonl"],
    "uec_rl": ["method=uec_rl", "terms=none", "uec.explore_size=4"],
}


@pytest.mark.parametrize("method", METHODS)
def test_every_rollout_of_the_ledger_has_one_fate(method, fake_run, tmp_path):
    teachers = [
        TeacherResponse(prompt_id=f"train-{i}", teacher="ones", text="11", reward=1.0)
        for i in range(10)
    ]
    write_teachers(tmp_path / "teachers.jsonl", teachers)
    overrides = [override.format(folder=tmp_path) for override in METHODS[method]]
    run = fake_run(*overrides, "run.steps=4").run()
    for step in range(1, 5):
        name = f"step_{step:06d}.parquet"
        fates = rows(run.folder / "trained" / name)
        new = [row for row in fates if row["source"] == "new"]
        assert [key(row) for row in new] == sorted(map(key, rows(run.folder / "rollouts" / name)))

        line = run.lines.lines[step]
        trained = [row for row in fates if row["fate"] == "trained"]
        assert len(trained) == line["update/samples"]
        assert all((row["advantage"] is None) == (row["fate"] != "trained") for row in fates)
        policy = [row for row in new if row["origin"] == "policy"]
        shares = {name: share for name, share in line.items() if name.startswith("fate/")}
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["fate/trained_frac"] == pytest.approx(
            sum(row["fate"] == "trained" for row in policy) / len(policy)
        )
    right = [row["advantage"] for row in trained if row["reward"] == 1]
    wrong = [row["advantage"] for row in trained if row["reward"] == 0]
    if method == "ce_gppo":
        assert min(right) > 0 > max(wrong)
