"""One row per rollout of a step, trained or not."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from isentropic.controller.storage.fates import write_fates
from isentropic.methods.fates import Fate
from isentropic.records import Prompt, Rollout, RolloutKey, Sample, TokenScores


def rollout(draw, sample, step, reward, shaped=float("nan")):
    return Rollout(
        key=RolloutKey("train", draw, 0, sample),
        prompt=Prompt(prompt_id="p", messages=(), answer="1"),
        token_ids=np.arange(4),
        turns=((2, 4),),
        rollout_logprob=np.zeros(2, dtype=np.float32),
        temperature=1.0,
        seed=0,
        finish_reason="stop",
        step=step,
        policy_version=8,
        reward=reward,
        shaped_reward=shaped,
    )


def trained(rollout, advantage):
    scores = TokenScores(
        logprob=np.array([-1.0, -3.0], dtype=np.float32),
        entropy=np.array([0.5, 1.5], dtype=np.float32),
        sensitivity=np.zeros(2, dtype=np.float32),
        sum_p2=np.zeros(2, dtype=np.float32),
    )
    sample = Sample(
        rollout=rollout,
        old=scores,
        advantage=np.array(advantage, dtype=np.float32),
        token_weight=np.ones(2, dtype=np.float32),
    )
    return Fate(name="trained", rollout=rollout, sample=sample)


def test_rows(tmp_path):
    fates = [
        Fate(name="flat", rollout=rollout(6, 1, 3, 0.0, shaped=-0.25)),
        trained(rollout(5, 0, 3, 1.0, shaped=1.0), [1.0, -3.0]),
        Fate(name="overflowed", rollout=rollout(2, 0, 1, 1.0, shaped=1.0)),
        Fate(name="replaced", rollout=rollout(6, 0, 3, 0.0)),
    ]
    path = write_fates(tmp_path / "trained", 3, fates)

    assert path.name == "step_000003.parquet"
    rows = pq.read_table(path).to_pylist()
    assert [(row["draw"], row["sample"], row["fate"], row["source"]) for row in rows] == [
        (2, 0, "overflowed", "queue"),
        (5, 0, "trained", "new"),
        (6, 0, "replaced", "new"),
        (6, 1, "flat", "new"),
    ]
    assert {row["step"] for row in rows} == {3}
    assert [row["shaped_reward"] for row in rows] == [1.0, 1.0, None, -0.25]
    names = ("advantage", "advantage_abs", "old_logprob", "old_entropy")
    assert [rows[1][name] for name in names] == pytest.approx([-1.0, 2.0, -2.0, 1.0])
    assert {row[name] for row in rows for name in names if row["fate"] != "trained"} == {None}


def test_a_step_without_rollouts_keeps_the_columns(tmp_path):
    table = pq.read_table(write_fates(tmp_path, 1, []))
    assert table.num_rows == 0 and "fate" in table.column_names
