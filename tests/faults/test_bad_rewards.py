"""A whole run on a task whose check raises, hangs, dies or answers NaN: each such answer is counted, none is lost."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hostile_task import FAULTS, fault_of
from training_job import lines

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SCRIPT = Path(__file__).with_name("hostile_task.py")
ERROR = -0.25  # no reward of the task's own


def test_every_bad_check_is_one_answer(job):
    run = job(
        "rewards.timeout_s=1.0",
        f"rewards.reward_on_error={ERROR}",
        "rewards.max_errors_in_a_row=null",
        "rollout.prompts_per_step=8",
        "rollout.group_size=2",
        "evaluation.every=0",
        script=SCRIPT,
    )
    assert run.wait() == 0, run.text()[-3000:]
    seen = set()
    for line in lines(run.folder)[1:]:
        rows = pq.read_table(
            run.folder / "rollouts" / f"step_{line['step']:06d}.parquet"
        ).to_pylist()
        faults = [fault_of(row["prompt_id"]) for row in rows]
        assert [row["reward"] for row in rows] == [
            1.0 if fault is None else ERROR for fault in faults
        ]
        assert line["reward/errors"] == sum(fault is not None for fault in faults)
        seen |= set(faults)
    assert seen == {None, *FAULTS}, "else this test shows less than it says"


def test_a_check_that_never_works_stops_the_run(job):
    """All answers are counted as errors: the task is at fault, and the message says which key lets one go on."""
    run = job(
        "rewards.timeout_s=1.0",
        "rewards.max_errors_in_a_row=3",
        "evaluation.every=0",
        script=SCRIPT,
    )
    assert run.wait() == 1, run.text()[-3000:]
    assert "rewards.max_errors_in_a_row" in run.text()
