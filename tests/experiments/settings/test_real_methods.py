"""PAPO, OGER and UEC-RL as jobs of their own: real engine, real learner, Ray, a random model of 0.1 M parameters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[3]
UNSTABLE = ("time/", "throughput/", "mismatch/", "sync/")
DEADLINE_S = 400  # the machine may be shared
SMALL = [
    "experiment=ce_gppo_tiny",
    "model=path",
    "model.max_length=96",
    "rollout.max_prompt_tokens=64",
    "rollout.max_response_tokens=24",
    "rollout.kv_cache_gib=0.06",
    "rollout.max_num_seqs=32",
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
    "learner.num_ranks=1",
    "learner.updates_per_rollout=2",
    "evaluation.every=0",
    "evaluation.prompts=2",
    "accounting.recheck_share=0.5",
    "run.steps=2",
    "tracking.wandb=disabled",
]
# A random model is never right: rewards that differ inside a group come from the length of its responses.
BY_LENGTH = ["shaping=overlong", "shaping.buffer_share=1.0", "filter=keep_all"]
UEC_OFF = [
    "uec.explore_size=0",
    "uec.queue=false",
    "uec.overlong_filter=false",
    "uec.replay_every=null",
]


@pytest.fixture
def train(tmp_path, tiny_model_path):
    """Runs a job in a folder, to its end; its lines."""

    def run(folder, *overrides):
        command = [
            sys.executable,
            str(ROOT / "jobs" / "train.py"),
            *SMALL,
            f"model.path={tiny_model_path}",
        ]
        command += [f"run.name={folder}", f"run.dir={tmp_path / folder}", *overrides]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=dict(os.environ),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return [
            json.loads(line)
            for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        ]

    return run


@pytest.mark.slow  # the fakes show the same in seconds
def test_switched_off_they_are_the_base_method(train):
    """PAPO with alpha 0 and UEC-RL with all of its parts off, at once."""
    off = ["method=[papo,uec_rl]", "papo.alpha=0", *UEC_OFF, "objective=ce_gppo", "terms=none"]
    base, method = train("base", *BY_LENGTH), train("off", *BY_LENGTH, *off)
    assert base[2]["update/samples"] == 16 and base[2]["grad_norm/mean"] > 0  # it did train
    for line, other in zip(base, method, strict=True):
        wanted = {key: value for key, value in line.items() if not key.startswith(UNSTABLE)}
        assert {key: other.get(key) for key in wanted} == wanted
    assert "papo/u" in method[1] and "uec/buffer_size" in method[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("methods", "objective"),
    [("oger", "clip"), ("papo", "ce_gppo"), ("papo,oger,uec_rl", "gspo"), ("uec_rl", "ce_gppo")],
)
def test_compositions(methods, objective, train, tmp_path):
    """Two steps each, with the reference model where UEC-RL asks for its KL."""
    oger, uec = "oger" in methods, "uec_rl" in methods
    overrides = [f"method=[{methods}]", f"objective={objective}"]
    overrides += [f"filter={'keep_rules' if uec else 'keep_all'}", "rollout.probe_tolerance=1e-3"]
    overrides += ["oger.cache=null"] if oger else []
    overrides += ["uec.explore_size=4"] if uec else []
    line = train("run", *overrides)[2]
    assert ("papo/u" in line, "oger/bonus_mean" in line, "uec/queue_size" in line) == (
        "papo" in methods,
        oger,
        uec,
    )
    rows = pq.read_table(tmp_path / "run" / "rollouts" / "step_000002.parquet").to_pylist()
    assert sum(row["origin"].startswith("teacher:") for row in rows) == (4 if oger else 0)
    assert sum(row["wave"] == 1 for row in rows) == (line["uec/explored"] if uec else 0)
    assert (line["kl/initial"] is not None) == uec
