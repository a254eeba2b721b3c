"""What is refused before a run starts; and a whole run, from inside a notebook's event loop."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

import isentropic

PLATFORM = Path(isentropic.__file__).resolve().parents[1]


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, isentropic; assert 'train' in dir(isentropic) and isentropic.__version__;"
        "print([name for name in ('torch', 'ray', 'pandas', 'numpy', 'hydra', 'matplotlib')"
        " if name in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(PLATFORM)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert answer.stdout == "[]\n", answer.stderr


def test_what_is_listed_is_there():
    assert all(getattr(isentropic, name) is not None for name in isentropic.__all__)
    with pytest.raises(AttributeError, match="module 'isentropic' has no attribute 'trian'"):
        isentropic.trian  # noqa: B018


def test_a_config_from_a_list_or_a_mapping():
    listed = isentropic.compose(["experiment=ce_gppo_tiny", "seed=3", "objective.clip_high=null"])
    mapped = isentropic.compose(
        {"experiment": "ce_gppo_tiny", "seed": 3, "objective.clip_high": None}
    )
    assert listed == mapped
    assert mapped.seed == 3 and mapped.objective.clip_high is None
    assert mapped.run.preset == "ce_gppo"
    assert "hydra" not in mapped


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=ce_gppo_tiny", "sede=3"], r"Did you mean 'seed'"),
        ({"experiment": "ce_gppo_tinny"}, r"Did you mean 'ce_gppo_tiny'"),
        ("experiment=ce_gppo_tiny", "overrides must be a list of texts"),
        (["experiment=ce_gppo_tiny", "run.dry=true"], "run.dry=true trains nothing"),
        (["experiment=ce_gppo_tiny", "method=[dapo,oger]"], "dapo"),
        (["method=dapo", "method=papo"], "method is given twice"),
        (["experiment=ce_gppo_tiny", "objective.beta1=-1"], "objective.beta1 must be >= 0"),
    ],
)
def test_a_run_that_cannot_start_leaves_nothing(runs, overrides, message):
    before = sorted(runs.iterdir())
    with pytest.raises(ValueError, match=message):
        isentropic.train(overrides)
    assert sorted(runs.iterdir()) == before


def test_a_folder_that_has_a_run_is_refused(runs):
    with pytest.raises(ValueError, match="already has a run"):
        isentropic.train(["experiment=ce_gppo_tiny", "run.name=low"])


@pytest.mark.parametrize(
    ("run", "steps", "settings", "message"),
    [
        ("lwo", [1], ["objective.beta1=0,1"], r"Did you mean 'low'\?"),
        ("low", [1], ["objective.beta1=0"], "a comparison needs two settings"),
        ("low", [77], ["objective.beta1=0,1"], "no branch can start after step 77"),
        ("low", [1], {"a": ["model.name=x"], "b": []}, "cannot differ between branches"),
        ("low", [1], {"a": "seed=1", "b": []}, r"settings\.a must be a list"),
    ],
)
def test_branches_that_cannot_be_made(runs, run, steps, settings, message):
    with pytest.raises(ValueError, match=message):
        isentropic.branch(run, steps, settings)


@pytest.mark.slow  # the thread it needs there has tests of its own: run/test_in_thread.py
@pytest.mark.engine
def test_train_and_branch_as_in_a_notebook(tmp_path, tiny_model_path, monkeypatch, capsys):
    """A notebook's thread has an event loop that runs: no other can be run in it."""
    monkeypatch.setenv("ISENTROPIC_RUNS", str(tmp_path))
    small = {
        "experiment": "ce_gppo_tiny", "model.path": tiny_model_path, "model.warm_start": None,
        "run.name": "a", "run.steps": 2, "rollout.prompts_per_step": 4, "learner.num_ranks": 1,
        "learner.updates_per_rollout": 2, "evaluation.every": 0, "rollout.kv_cache_gib": 0.125,
        "tracking.wandb": "disabled", "cluster.object_store_gib": 0.25, "filter": "keep_all",
        "rollout.max_prompt_tokens": 64, "terms": "entropy_bonus",
        "terms.entropy_bonus.coef": 1.0, "learner.lr": 1e-2,
    }  # fmt: skip

    async def cell():
        run = isentropic.train(small)
        branches = isentropic.branch(
            run, [1], ["learner.lr=1e-2,1e-3"], contexts=4, orders=1, out=tmp_path / "branches"
        )
        return run, branches

    run, branches = asyncio.run(cell())
    assert run.status == "finished" and list(run.metrics.index) == [0, 1, 2]
    assert run.tokens(2)["text"].notna().all()
    assert list(branches.rows.index) == [(1, "lr=0.01"), (1, "lr=0.001")]
    assert branches.differences.loc["kl_k3", ("lr=0.001", "mean")] < 0
    assert (branches.folder / "report.html").is_file()
