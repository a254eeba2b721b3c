"""What the soak's checks find in a ledger that was tampered with: a benchmark that cannot fail shows nothing."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.engine

spec = importlib.util.spec_from_file_location(
    "soak", Path(__file__).resolve().parents[2] / "benchmarks" / "soak.py"
)
soak = importlib.util.module_from_spec(spec)
spec.loader.exec_module(soak)


@pytest.fixture
def run(golden, tmp_path):
    shutil.copytree(golden, tmp_path / "run")
    return tmp_path / "run"


def rewrite(path, change):
    table = pq.read_table(path)
    pq.write_table(change(table), path)


def draw_again(run):
    shutil.copy(run / "rollouts" / "step_000002.parquet", run / "rollouts" / "step_000003.parquet")


def lose_a_rollout(run):
    rewrite(run / "rollouts" / "step_000003.parquet", lambda table: table.slice(4))


def train_twice(run):
    shutil.copy(run / "trained" / "step_000002.parquet", run / "trained" / "step_000003.parquet")


def train_less(run):
    """One of the rows of what was trained on; the others say why a rollout was dropped."""
    rewrite(
        run / "trained" / "step_000003.parquet",
        lambda table: table.filter(pc.equal(table["fate"], "trained")).slice(1),
    )


def lose_a_fate(run):
    rewrite(run / "trained" / "step_000003.parquet", lambda table: table.slice(1))


def lose_a_line(run):
    path = run / "metrics.jsonl"
    path.write_text("".join(line for line in path.open() if json.loads(line)["step"] != 3))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (draw_again, "was drawn 2 times"),
        (lose_a_rollout, "is not in the ledger|are not 0, 1, 2"),
        (train_twice, "was trained on 2 times as new"),
        (train_less, "samples and has"),
        (lose_a_fate, "of step 3 has no fate"),
        (lose_a_line, "does not have each step once"),
    ],
)
def test_each_harm_is_named(run, harm, message):
    assert soak.check(run, seed=0) == []
    harm(run)
    assert re.search(message, "\n".join(soak.check(run, seed=0)))


def test_memory_that_grows():
    flat = [(float(second), (100 + second % 2) * 2**20) for second in range(300)]
    growing = [(float(second), (100 + second) * 2**20) for second in range(300)]
    wrong, said = soak.grown(
        {"driver 1": flat, "rank 2": growing, "engine 3": flat[:70]}, undisturbed=True
    )
    assert said.keys() == {"driver 1", "rank 2"}
    assert [each.partition(":")[0] for each in wrong] == [
        "rank 2 grew",
        "too short to measure",
        "too short to measure",
    ]
