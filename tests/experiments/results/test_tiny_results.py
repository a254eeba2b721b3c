"""Real runs of three steps through `make results`: shared, resumed, branched, judged, rendered."""

import json

import pytest

from isentropic.experiments.program import DONE
from isentropic.experiments.results.numbers import tokens_by_step
from isentropic.experiments.results.parts import Branching, Part
from isentropic.experiments.results.run import Places, make_results
from isentropic.metrics.report.branches import Branches
from isentropic.metrics.report.run_data import read_run

SMALL = """
overrides:
  - experiment=ce_gppo_tiny
  - model.path={model}
  - model.warm_start=null
  - run.steps=3
  - rollout.prompts_per_step=4
  - rollout.kv_cache_gib=0.125
  - rollout.max_prompt_tokens=64
  - learner.num_ranks=1
  - learner.updates_per_rollout=2
  - learner.lr=1e-2
  - cluster.object_store_gib=0.25
  - tracking.wandb=disabled
  - filter=keep_all
  - evaluation.every=1
  - evaluation.prompts=2
  - evaluation.samples=1
settings:
  GRPO: [method=grpo]
  {label}: [{method}]
grid: {{ seed: [0] }}
"""
ENDS = """
settings:
  "(1, 1)": [objective=ce_gppo, objective.beta1=1.0, objective.beta2=1.0]
  "(0, 1)": [objective=ce_gppo, objective.beta1=0.0, objective.beta2=1.0]
"""


@pytest.mark.slow
@pytest.mark.engine
def test_two_parts_of_two_methods(tmp_path, tiny_model_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, method in (("one", "method=ce_gppo"), ("two", "method=gspo")):
        text = SMALL.format(model=tiny_model_path, label=name, method=method)
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "ends.yaml").write_text(ENDS)
    parts = [
        Part(name=name, title=name, sweep=f"{name}.yaml", overrides=(), base="GRPO", again=("T2",))
        for name in ("one", "two")
    ]
    places, said = Places(runs=tmp_path / "runs", results=tmp_path / "numbers"), []

    assert make_results(parts, places, parallel=2, say=said.append) == DONE

    assert "together     3 runs, each trained once" in "\n".join(said)
    assert "two: 2 runs, 1 to do" in "\n".join(said)  # GRPO was trained for the part before
    rows = [json.loads(line) for line in (places.runs / "sweep.jsonl").read_text().splitlines()]
    assert sorted(row["state"] for row in rows) == ["done"] * 3 + ["running"] * 3
    one, two = (json.loads((places.results / f"{n}.json").read_text()) for n in ("one", "two"))
    assert one["settings"][0]["numbers"] == two["settings"][0]["numbers"]
    assert one["settings"][1]["numbers"]["seconds"]["mean"] > 0
    (totals,) = json.loads((places.results / "totals.json").read_text()).values()
    assert totals["runs"] == 3
    assert totals["hours"] == pytest.approx(
        sum(row.get("seconds", 0) for row in rows) / 3600, rel=1e-4
    )
    run = read_run(places.runs / rows[0]["run"], ended=True)
    drawn = sum(run.values("response/tokens_mean")) * 4 * 8
    assert sum(tokens_by_step(run)) == pytest.approx(drawn)

    # Again, with branches: no run is trained, and the rows of the branches are pooled.
    branching = Branching(sweep="ends.yaml", points=2)
    again = Part(**vars(parts[0]) | {"branching": branching, "statements": ("T3",)})
    before = (places.runs / "sweep.jsonl").read_text()
    assert make_results([again], places, processes=2, say=said.append) == DONE
    assert (places.runs / "sweep.jsonl").read_text() == before
    assert Branches(places.runs / "branches" / "one").num_points == 4  # two of each run
    found = json.loads((places.results / "one.json").read_text())
    assert found["branches"]["points"] == 4
    (statement,) = [row for row in found["statements"] if row["id"] == "T3 beta1"]
    assert statement["verdict"] == "undecided"
    assert "nothing was clipped" in statement["number"]  # a random model earns nothing
