"""A run goes on from the newest checkpoint that nothing before it is missing for; never with a gap behind it."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isentropic.controller.drawing.flight import Flight
from isentropic.controller.storage import checkpoints
from isentropic.controller.storage.carried import write_flight
from isentropic.controller.storage.checkpoints import Manifest
from isentropic.controller.storage.ledger import Batch, LedgerError, write_batch
from isentropic.controller.storage.resume import drawn_by, resume_point
from isentropic.records import Group, Prompt, Rollout, RolloutKey

STEPS, UPDATES, VOCABULARY = 6, 2, 12


@pytest.fixture
def run(tmp_path):
    """The record of six steps of two updates, with checkpoints after 2, 4 and 6."""
    lines = [{"step": step, "update/count": UPDATES if step else 0} for step in range(STEPS + 1)]
    updates = [
        {"step": step, "update": update} for step in range(1, STEPS + 1) for update in (0, 1)
    ]
    write(tmp_path / "metrics.jsonl", lines)
    write(tmp_path / "updates.jsonl", updates)
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "trained").mkdir()
    for step in range(1, STEPS + 1):
        write_batch(tmp_path / "rollouts", drawn(step), {})
        pq.write_table(pa.table({"step": [step] * 50}), parquet(tmp_path, "trained", step))
    (tmp_path / "checkpoints").mkdir()
    for step in (2, 4, 6):
        temporary = checkpoints.begin(tmp_path / "checkpoints", step)
        manifest = Manifest(step=step, policy_version=0, next_draw=0, about={}, files={})
        checkpoints.commit(tmp_path / "checkpoints", temporary, manifest, {})
    return tmp_path


def drawn(step):
    prompt = Prompt(prompt_id="p", messages=(), answer="1")
    rollout = Rollout(
        key=RolloutKey("train", step, 0, 0),
        prompt=prompt,
        token_ids=np.arange(200) % VOCABULARY,
        turns=((100, 200),),
        rollout_logprob=np.full(100, -0.5, np.float32),
        temperature=1.0,
        seed=step,
        finish_reason="stop",
        step=step,
        policy_version=0,
        reward=1.0,
    )
    return Batch(
        step=step,
        groups=(Group(draw=step, prompt=prompt, rollouts=(rollout,)),),
        next_draw=step + 1,
        source_step=0,
        policy_version=0,
        reward_errors=0,
    )


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def parquet(folder, name, step):
    return folder / name / f"step_{step:06d}.parquet"


def edit(path, change):
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def cut(path):
    path.write_bytes(path.read_bytes()[:-6])


def point(run, ahead=0, **more):
    warnings = []
    found = resume_point(
        run, ahead=ahead, last=STEPS, warn=warnings.append, vocab_size=VOCABULARY, **more
    )
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


def test_a_ledger_file_that_was_cut_is_named_before_its_step_is_trained_again(run):
    """It sends the run before it, where it would be read; moved away, its step is drawn again."""
    cut(parquet(run, "rollouts", 2))
    with pytest.raises(LedgerError, match=r"step_000002\.parquet cannot be read.*move it away"):
        point(run)
    parquet(run, "rollouts", 2).unlink()
    found, warnings = point(run)
    assert found is None
    assert "rollouts lacks step 2" in warnings[0]


@pytest.fixture
def in_segments(run):
    """The record of a run in segments: beside each step, what it left. point(): as above."""
    (run / "carried").mkdir()
    for step in range(1, STEPS + 1):
        left = Flight(groups=drawn(step).groups, next_draw=step + 1)
        write_flight(run / "carried", left, drawn(step))

    def point(ahead=0):
        warnings = []
        found = resume_point(
            run, ahead=ahead, last=STEPS, warn=warnings.append, vocab_size=VOCABULARY,
            in_segments=True,
        )  # fmt: skip
        return found and found[1].step, warnings

    return point


def test_what_the_step_of_a_checkpoint_left_is_part_of_the_record(run, in_segments):
    assert in_segments() == (6, [])
    parquet(run, "carried", 6).unlink()
    found, warnings = in_segments()
    assert found == 4
    assert "carried lacks step 6" in warnings[0]
    assert point(run) == (6, []), "without segments nobody looks"


def test_what_earlier_steps_left_is_read_by_nobody(run, in_segments):
    for step in range(1, 6):
        parquet(run, "carried", step).unlink()
    assert in_segments() == (6, [])
    parquet(run, "rollouts", 6).unlink()
    found, warnings = in_segments()
    assert found is None, "what the steps 4 and 2 left is gone, too"
    assert "carried lacks step 4" in warnings[1]


def test_what_was_drawn_ahead_left_something_too(run, in_segments):
    (run / "checkpoints" / "step_000006").rename(run / "away")
    parquet(run, "carried", 5).unlink()
    assert in_segments(ahead=0)[0] == 4
    found, warnings = in_segments(ahead=1)
    assert found == 2
    assert "carried lacks step 5" in warnings[0]


def test_what_a_step_left_is_read_before_the_run_starts(run, in_segments):
    whole = parquet(run, "carried", 6).read_bytes()
    parquet(run, "carried", 6).write_bytes(whole[:64] + bytes(64) + whole[128:])
    with pytest.raises(LedgerError, match=r"carried.step_000006\.parquet cannot be read"):
        in_segments()


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


def flip(path):
    """Changes a bit in the middle of a page; the end of the file, which says what it has, is whole."""
    data = bytearray(path.read_bytes())
    data[data.index(b"\x28\xb5\x2f\xfd") + 12] ^= 1  # behind the first page's own magic number
    path.write_bytes(data)


def other_token(path):
    table = pq.read_table(path)
    tokens = pa.array([[VOCABULARY] * 200], pa.list_(pa.int32()))
    place = table.schema.get_field_index("token_ids")
    pq.write_table(table.set_column(place, "token_ids", tokens), path, write_page_checksum=True)


@pytest.mark.parametrize("damage", [flip, other_token])
@pytest.mark.parametrize(("step", "ahead"), [(5, 0), (6, 0), (5, 1)])
def test_a_damaged_page_of_a_step_to_be_trained_again_is_found_at_the_start(
    run, damage, step, ahead
):
    """Else the run stops when it comes to that step, hours later."""
    (run / "checkpoints" / "step_000006").rename(run / "away")
    assert point(run, ahead)[0] == 4
    damage(parquet(run, "rollouts", step))
    with pytest.raises(LedgerError, match=f"step_00000{step}.parquet cannot be read.*move it away"):
        point(run, ahead)
    parquet(run, "rollouts", step).unlink()
    assert point(run, ahead)[0] == (2 if ahead else 4)


def test_without_a_checkpoint_all_steps_are_read(run):
    for step in (2, 4, 6):
        (run / "checkpoints" / f"step_00000{step}").rename(run / f"away{step}")
    assert point(run) == (None, [])
    flip(parquet(run, "rollouts", 1))
    with pytest.raises(LedgerError, match=r"step_000001\.parquet"):
        point(run)


def test_steps_before_the_checkpoint_are_not_read_whole(run):
    """They may be a terabyte, and nothing is computed from them again."""
    flip(parquet(run, "rollouts", 3))
    assert point(run) == (6, [])


def test_steps_that_are_drawn_again_are_not_read(run):
    """Step 5 is damaged, behind the checkpoint of 4: a change of the config sets it aside anyway."""
    shutil.rmtree(run / "checkpoints" / "step_000006")
    cut(parquet(run, "rollouts", 5))
    with pytest.raises(LedgerError):
        point(run)
    assert point(run, drawn_again=True)[0] == 4
    assert point(run, drawn_again=True, ahead=1)[0] == 2  # there step 5 is older than checkpoint 4


def test_a_checkpoint_says_itself_how_far_it_was_drawn(run):
    """Made with staleness 1, resumed with 0: its place in the data order is behind step 5."""
    shutil.rmtree(run / "checkpoints" / "step_000006")
    folder = run / "checkpoints"
    about = {"config": {"rollout": {"max_staleness": 1}}}
    manifest = Manifest(step=4, policy_version=0, next_draw=0, about=about, files={})
    checkpoints.commit(folder, checkpoints.begin(folder, 4), manifest, {})
    assert point(run)[0] == 4
    parquet(run, "rollouts", 5).unlink()
    assert point(run)[0] == 2
    assert drawn_by((folder / "step_000004", manifest), ahead=0) == 5
    assert drawn_by(None, ahead=1) == 0
