"""A run goes on from the newest checkpoint that nothing before it is missing for; never with a gap behind it."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isentropic.controller.storage import checkpoints
from isentropic.controller.storage.checkpoints import Manifest
from isentropic.controller.storage.resume import resume_point

STEPS, UPDATES = 6, 2


@pytest.fixture
def run(tmp_path):
    """The record of six steps of two updates, with checkpoints after 2, 4 and 6."""
    lines = [{"step": step, "update/count": UPDATES if step else 0} for step in range(STEPS + 1)]
    updates = [
        {"step": step, "update": update} for step in range(1, STEPS + 1) for update in (0, 1)
    ]
    write(tmp_path / "metrics.jsonl", lines)
    write(tmp_path / "updates.jsonl", updates)
    for name in ("rollouts", "trained"):
        (tmp_path / name).mkdir()
        for step in range(1, STEPS + 1):
            pq.write_table(pa.table({"step": [step] * 50}), parquet(tmp_path, name, step))
    (tmp_path / "checkpoints").mkdir()
    for step in (2, 4, 6):
        temporary = checkpoints.begin(tmp_path / "checkpoints", step)
        manifest = Manifest(step=step, policy_version=0, next_draw=0, about={}, files={})
        checkpoints.commit(tmp_path / "checkpoints", temporary, manifest, {})
    return tmp_path


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def parquet(folder, name, step):
    return folder / name / f"step_{step:06d}.parquet"


def edit(path, change):
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def cut(path):
    path.write_bytes(path.read_bytes()[:-6])


def point(run, ahead=0):
    warnings = []
    found = resume_point(run, ahead=ahead, last=STEPS, warn=warnings.append)
    return found and found[1].step, warnings


def test_a_whole_record_goes_on_from_its_newest_checkpoint(run):
    assert point(run) == (6, [])


@pytest.mark.parametrize(
    ("damage", "step", "named"),
    [
        pytest.param(
            lambda run: edit(run / "metrics.jsonl", lambda rows: rows[:-1]),
            4,
            "metrics.jsonl lacks step 6",
            id="the last line gone",
        ),
        pytest.param(
            lambda run: edit(run / "metrics.jsonl", lambda rows: [*rows[:-1], rows[-1][:9]]),
            4,
            "metrics.jsonl lacks step 6",
            id="the last line torn",
        ),
        pytest.param(
            lambda run: edit(run / "metrics.jsonl", lambda rows: rows[:3] + rows[4:]),
            2,
            "metrics.jsonl lacks step 3",
            id="a line in the middle gone",
        ),
        pytest.param(
            lambda run: edit(run / "metrics.jsonl", lambda rows: rows[:5] + rows[4:]),
            4,
            "metrics.jsonl lacks step 5",
            id="a line in the middle twice",
        ),
        pytest.param(
            lambda run: edit(run / "metrics.jsonl", lambda rows: rows[1:]),
            None,
            "metrics.jsonl lacks step 0",
            id="the first line gone",
        ),
        pytest.param(
            lambda run: edit(run / "updates.jsonl", lambda rows: rows[:-1]),
            4,
            "updates.jsonl lacks step 6",
            id="the last update gone",
        ),
        pytest.param(
            lambda run: edit(run / "updates.jsonl", lambda rows: rows[:4] + rows[5:]),
            2,
            "updates.jsonl lacks step 3",
            id="an update in the middle gone",
        ),
        pytest.param(
            lambda run: edit(run / "updates.jsonl", lambda rows: rows[:6] + rows[5:]),
            2,
            "updates.jsonl lacks step 3",
            id="an update twice",
        ),
        pytest.param(
            lambda run: (run / "updates.jsonl").unlink(), None, "lacks step 1", id="no updates"
        ),
        pytest.param(
            lambda run: parquet(run, "rollouts", 5).unlink(),
            4,
            "rollouts lacks step 5",
            id="a ledger file gone",
        ),
        pytest.param(
            lambda run: cut(parquet(run, "rollouts", 2)),
            None,
            "rollouts lacks step 2",
            id="a ledger file cut",
        ),
        pytest.param(
            lambda run: cut(parquet(run, "trained", 3)),
            2,
            "trained lacks step 3",
            id="a file of trained samples cut",
        ),
        pytest.param(
            lambda run: [path.unlink() for path in (run / "trained").iterdir()],
            None,
            "trained lacks step 1",
            id="all trained samples gone",
        ),
    ],
)
def test_a_gap_sends_the_run_before_it(run, damage, step, named):
    damage(run)
    found, warnings = point(run)

    assert found == step
    assert named in warnings[0]


def test_lines_behind_the_checkpoint_are_no_gap(run):
    """A run that was killed in step 6 has some of its lines; they are cut off and written again."""
    checkpoint = run / "checkpoints" / "step_000006"
    checkpoint.rename(run / "away")
    edit(run / "metrics.jsonl", lambda rows: rows[:-1])
    edit(run / "updates.jsonl", lambda rows: rows[:-1])
    parquet(run, "trained", 6).unlink()

    assert point(run) == (4, [])


def test_what_was_drawn_ahead_must_be_there(run):
    """With staleness 1, step 5 was drawn from weights that a resume after step 4 no longer has."""
    (run / "checkpoints" / "step_000006").rename(run / "away")
    parquet(run, "rollouts", 5).unlink()

    assert point(run, ahead=0) == (4, [])
    assert point(run, ahead=1)[0] == 2


def test_at_the_end_nothing_is_drawn_ahead(run):
    assert point(run, ahead=2) == (6, [])


def test_a_damaged_checkpoint_is_passed_over(run):
    (run / "checkpoints" / "step_000006" / "manifest.json").write_text("{")
    found, warnings = point(run)

    assert found == 4
    assert "step_000006" in warnings[0]
