"""What is read back is what was written, bit for bit; what was damaged is refused by name."""

import json
import math
import random
from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isentropic.controller.storage.ledger import (
    SCHEMA,
    Batch,
    LedgerError,
    ledger_path,
    read_batch,
    write_batch,
)
from isentropic.records import Group, Prompt, Rollout, RolloutKey, Segment

PROMPT = Prompt(
    prompt_id="p<1>",
    reward_right=5.0,
    messages=({"role": "user", "content": 'say "hé"\n'},),
    answer="hé",
    media=("a.png",),
    metadata="{'numbers': (1, 2)}",
)


def rollout(draw, sample, wave=0, reward=1.0):
    return Rollout(
        key=RolloutKey("train", draw, wave, sample),
        prompt=PROMPT,
        token_ids=np.array([5, 6, 7, 8, 9]),
        turns=((2, 3), (4, 5)),
        rollout_logprob=np.array([-0.1, np.float32(-1 / 3)], dtype=np.float32),
        temperature=0.7,
        seed=2**62 - 1,
        finish_reason="turns",
        step=3,
        policy_version=16,
        source_step=2,
        reward=reward,
    )


@pytest.fixture
def batch():
    groups = (
        Group(
            draw=9, prompt=PROMPT, rollouts=(rollout(9, 0), rollout(9, 1), rollout(9, 0, wave=1))
        ),
        Group(draw=4, prompt=PROMPT, rollouts=(rollout(4, 0, reward=0.1),)),
    )
    return Batch(
        step=3, groups=groups, next_draw=10, source_step=2, policy_version=16, reward_errors=1
    )


def test_round_trip(batch, tmp_path):
    write_batch(tmp_path, batch, {batch.rollouts[0].key: ["one", "two"]})
    again = read_batch(tmp_path, 3)

    assert (again.step, again.next_draw, again.source_step, again.reward_errors) == (3, 10, 2, 1)
    assert [group.draw for group in again.groups] == [9, 4]
    for old, new in zip(batch.rollouts, again.rollouts, strict=True):
        for field in fields(Rollout):
            np.testing.assert_array_equal(getattr(old, field.name), getattr(new, field.name))


def test_more_rows_than_a_block_has_come_back_in_order(batch, tmp_path, monkeypatch):
    monkeypatch.setattr("isentropic.controller.storage.ledger.BLOCK_ROWS", 3)
    texts = {rollout.key: [str(rollout.key.draw)] for rollout in batch.rollouts}
    table = pq.read_table(write_batch(tmp_path, batch, texts))
    assert table["response"].to_pylist() == [["9"], ["9"], ["9"], ["4"]]
    again = read_batch(tmp_path, 3)
    assert [row.key for row in again.rollouts] == [row.key for row in batch.rollouts]
    assert [row.reward for row in again.rollouts] == [1.0, 1.0, 1.0, 0.1]


def test_no_dictionary_is_made_of_tokens(batch, tmp_path):
    """It would hold about every logprob once, beside its index: larger, and twice the time."""
    columns = pq.ParquetFile(write_batch(tmp_path, batch, {})).metadata.row_group(0)
    encodings = {
        columns.column(place).path_in_schema.split(".")[0]: columns.column(place).encodings
        for place in range(columns.num_columns)
    }
    assert "RLE_DICTIONARY" in encodings["prompt"]
    for name in ("token_ids", "rollout_logprob"):
        assert "RLE_DICTIONARY" not in encodings[name]


def test_ledgers_of_earlier_versions_have_less_about_a_prompt(batch, tmp_path):
    path = write_batch(tmp_path, batch, {})
    table = pq.read_table(path)
    prompts = [json.loads(text) for text in table["prompt"].to_pylist()]
    later = ("metadata", "reward_right")
    old = [json.dumps({k: v for k, v in prompt.items() if k not in later}) for prompt in prompts]
    index = table.schema.get_field_index("prompt")
    pq.write_table(table.set_column(index, "prompt", pa.array(old)), path)
    again = read_batch(tmp_path, 3)
    assert all(
        rollout.prompt == replace(PROMPT, metadata="", reward_right=1.0)
        for rollout in again.rollouts
    )


def test_parts_of_a_reward_are_kept_and_cost_other_runs_nothing(batch, tmp_path):
    path = write_batch(tmp_path, batch, {})
    assert "reward_parts" not in pq.read_table(path).column_names
    parts = {"right": 1.0, "short": 1 / 3}
    group = batch.groups[1]
    paid = replace(group, rollouts=(replace(group.rollouts[0], reward_parts=parts),))
    write_batch(tmp_path, replace(batch, groups=(batch.groups[0], paid)), {})
    again = read_batch(tmp_path, 3)
    assert [row.reward_parts for row in again.rollouts] == [{}, {}, {}, parts]


def test_teachers_are_kept_apart(batch, tmp_path):
    teacher = replace(
        rollout(9, 2, reward=math.nan),
        origin="teacher:solver",
        rollout_logprob=np.full(2, np.nan, np.float32),
        finish_reason="stop",
    )
    write_batch(tmp_path, replace(batch, teachers=(teacher,)), {})
    again = read_batch(tmp_path, 3)
    assert [row.key for row in again.rollouts] == [row.key for row in batch.rollouts]
    for field in fields(Rollout):
        np.testing.assert_array_equal(
            getattr(teacher, field.name), getattr(again.teachers[0], field.name)
        )


SEGMENTS = (
    Segment(start=0, step=2, source_step=1, policy_version=8, seed=2**62 - 1),
    Segment(start=1, step=3, source_step=2, policy_version=16, seed=7),
)


@pytest.fixture
def in_segments(batch):
    """The batch with rollouts of two segments, one of which was finished in the step before."""
    earlier = {"segments": SEGMENTS[:1], "source_step": 1, "policy_version": 8}
    groups = tuple(
        replace(
            group,
            rollouts=tuple(
                replace(each, **({"segments": SEGMENTS} if each.key.sample == 0 else earlier))
                for each in group.rollouts
            ),
        )
        for group in batch.groups
    )
    return replace(batch, groups=groups)


def test_segments_come_back(in_segments, tmp_path):
    write_batch(tmp_path, in_segments, {})
    again = read_batch(tmp_path, 3)
    assert [row.segments for row in again.rollouts] == [r.segments for r in in_segments.rollouts]
    assert again.rollouts[1].policy_version == 8


def test_ledgers_of_earlier_versions_have_no_segments(batch, tmp_path):
    path = write_batch(tmp_path, batch, {})
    pq.write_table(pq.read_table(path).drop_columns("segments"), path)
    assert {rollout.segments for rollout in read_batch(tmp_path, 3).rollouts} == {()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param([{"start": 1}, {}], "has the segments", id="the first token is nobody's"),
        pytest.param([{}, {"start": 0}], "has the segments", id="a segment of no token"),
        pytest.param([{}, {"start": 2}], "has the segments", id="behind the last token"),
        pytest.param([{}, {"step": 1}], "has the segments", id="a step before the last"),
        pytest.param([{}, {"step": 4}], "has the segments", id="a step to come"),
        pytest.param([{}, {"policy_version": 15}], "has the segments", id="another end"),
        pytest.param([{"source_step": 3}, {}], "has the segments", id="weights that fall back"),
    ],
)
def test_segments_must_make_sense(in_segments, tmp_path, changes, message):
    path = write_batch(tmp_path, in_segments, {})
    rows = pq.read_table(path)["segments"].to_pylist()
    rows[0] = [row | change for row, change in zip(rows[0], changes, strict=True)]
    rewritten(path, segments=pa.array(rows, SCHEMA.field("segments").type))
    with pytest.raises(LedgerError, match=message):
        read_batch(tmp_path, 3)


def test_what_is_not_finished_is_no_rollout_of_a_step(in_segments, tmp_path):
    """A step's file must not have it; what a step leaves may, before it is graded too."""
    cut = replace(in_segments.rollouts[0], finish_reason="unfinished", reward=math.nan)
    rest = in_segments.groups[0].rollouts[1:]
    groups = (replace(in_segments.groups[0], rollouts=(cut, *rest)), in_segments.groups[1])
    write_batch(tmp_path, replace(in_segments, groups=groups), {})
    with pytest.raises(LedgerError, match=r"row 0, rollout .* is not finished"):
        read_batch(tmp_path, 3)
    assert not read_batch(tmp_path, 3, unfinished=True).rollouts[0].is_finished


def test_a_step_never_drawn_is_none(tmp_path):
    assert read_batch(tmp_path, 1) is None


def test_damage_is_refused(batch, tmp_path):
    path = write_batch(tmp_path, batch, {})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LedgerError, match=r"step_000003\.parquet cannot be read"):
        read_batch(tmp_path, 3)


def test_a_bit_that_changed_is_refused_or_changes_nothing(batch, tmp_path):
    """Without sums of the pages, a third of such files was read as other tokens or rewards."""
    path, rng, refused = write_batch(tmp_path, batch, {}), random.Random(0), 0
    whole = path.read_bytes()
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            again = read_batch(tmp_path, 3)
        except LedgerError:
            refused += 1
            continue
        for field in fields(Batch):
            if field.name not in ("groups", "teachers"):
                assert getattr(again, field.name) == getattr(batch, field.name)
        for one, other in zip(again.rollouts, batch.rollouts, strict=True):
            for field in fields(Rollout):
                np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
    assert refused > 200


def test_another_steps_file_is_refused(batch, tmp_path):
    write_batch(tmp_path, batch, {}).rename(ledger_path(tmp_path, 4))
    with pytest.raises(LedgerError, match="holds step 3, not step 4"):
        read_batch(tmp_path, 4)


def rewritten(path, **columns):
    """The file with other values in some columns, and whole: all its sums are right."""
    table = pq.read_table(path)
    for name, values in columns.items():
        column = pa.array(values) if not isinstance(values, pa.Array) else values
        table = table.set_column(table.schema.get_field_index(name), name, column)
    pq.write_table(table, path, write_page_checksum=True)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        pytest.param({"reward": ["good"] * 4}, "column reward is of type string", id="words"),
        pytest.param({"reward": [1.0, math.nan, 1.0, 0.0]}, "has the reward nan", id="no number"),
        pytest.param({"reward": [1.0, math.inf, 1.0, 0.0]}, "has the reward inf", id="infinite"),
        pytest.param(
            {"token_ids": pa.array([[5, 6, 7, 8, -1]] * 4, pa.list_(pa.int32()))},
            "has the token -1",
            id="a negative token",
        ),
        pytest.param(
            {"token_ids": pa.array([[5, 6, None, 8, 9]] * 4, pa.list_(pa.int32()))},
            "column token_ids lacks values",
            id="a token that is missing",
        ),
        pytest.param(
            {"rollout_logprob": pa.array([[-0.1, -0.2], None] * 2, pa.list_(pa.float32()))},
            "column rollout_logprob lacks values",
            id="a row without logprobs",
        ),
        pytest.param({"turns": [[[2, 3], [4, 6]]] * 4}, "turns", id="a turn outside the tokens"),
        pytest.param({"turns": [[[2, 4], [3, 4]]] * 4}, "turns", id="turns that overlap"),
        pytest.param({"turns": [[[2, 3]]] * 4}, "2 logprobs for 1 response", id="another length"),
        pytest.param({"sample": [0, 0, 0, 0]}, "two rollouts of the key", id="a key twice"),
        pytest.param({"draw": [9, 9, 9, 5]}, r"not of \[9, 4\]", id="a draw of another step"),
        pytest.param({"wave": [0, 0, -1, 0]}, "negative number", id="a negative wave"),
        pytest.param({"step": [3, 3, 9, 3]}, "has the step 9, the file 3", id="another step"),
        pytest.param({"source_step": [2, 1, 2, 2]}, "source_step 1", id="other weights"),
        pytest.param({"policy_version": [16, 7, 16, 16]}, "policy_version 7", id="another version"),
        pytest.param({"sample": [0, 2, 0, 0]}, "lacks samples", id="a gap in the samples"),
        pytest.param(
            {"rollout_logprob": pa.array([[-0.1, 5.0]] * 4, pa.list_(pa.float32()))},
            "probability above 1",
            id="a probability above 1",
        ),
        pytest.param({"finish_reason": ["stop"] * 3 + ["?"]}, "finish reason", id="no such reason"),
        pytest.param({"temperature": [-1.0] * 4}, "temperature -1.0", id="no temperature"),
        pytest.param(
            {"rollout_logprob": pa.array([[-0.1, math.nan]] * 4, pa.list_(pa.float32()))},
            "logprob that is not a finite number",
            id="a logprob that is none",
        ),
    ],
)
def test_rows_must_make_sense(batch, tmp_path, columns, message):
    """Sums protect bytes; what a program wrote wrongly, or a person edited, has right sums."""
    path = write_batch(tmp_path, batch, {})
    rewritten(path, **columns)
    with pytest.raises(LedgerError, match=message):
        read_batch(tmp_path, 3)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        pytest.param(-1, "has the token -1; the model has the tokens 0 to 11", id="negative"),
        pytest.param(11, None, id="the last one"),
        pytest.param(12, "has the token 12; the model has the tokens 0 to 11", id="one too many"),
    ],
)
def test_tokens_that_the_model_lacks_are_refused(batch, tmp_path, token, message):
    """Named are the file, the row and the token: on a GPU the embedding would fail much later."""
    rows = [[5, 6, 7, 8, 9]] * 2 + [[5, 6, token, 8, 9]] + [[5, 6, 7, 8, 9]]
    rewritten(write_batch(tmp_path, batch, {}), token_ids=pa.array(rows, pa.list_(pa.int32())))
    if message is None:
        assert read_batch(tmp_path, 3, vocab_size=12).rollouts[2].token_ids[2] == token
        return
    place = r"step_000003\.parquet .*its row 2, rollout \('train', 9, 1, 0\), "
    with pytest.raises(LedgerError, match=place + message):
        read_batch(tmp_path, 3, vocab_size=12)


def test_rewriting_alone_changes_nothing(batch, tmp_path):
    rewritten(write_batch(tmp_path, batch, {}))
    assert len(read_batch(tmp_path, 3).rollouts) == 4


def test_nothing_is_left_beside_it(batch, tmp_path):
    write_batch(tmp_path, batch, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step_000003.parquet"]
