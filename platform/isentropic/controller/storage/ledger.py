"""The ledger: every step's rollouts, on disk before the step trains, so that none is drawn twice.

One parquet file per step and one row per rollout, raw and complete: dropped groups and all waves
too. A file is there whole or not at all (temporary name, fsync, rename). Resume, replay and
branches read it instead of drawing again. What is drawn of held-out prompts has files of the same
form, for those who compute `eval/*` again; no run reads them.
"""

import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from isentropic.columns import cut, join
from isentropic.durable import replace_durably
from isentropic.records import FinishReason, Group, Prompt, Rollout, RolloutKey, Segment

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("policy_version", pa.int64()),
        ("source_step", pa.int64()),
        ("split", pa.string()),
        ("draw", pa.int64()),
        ("wave", pa.int64()),
        ("sample", pa.int64()),
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),  # JSON: messages, answer, media, metadata, reward_right
        ("response", pa.list_(pa.string())),  # one text per turn
        ("reward", pa.float64()),
        ("finish_reason", pa.string()),
        ("temperature", pa.float64()),
        ("seed", pa.int64()),
        ("origin", pa.string()),
        ("turns", pa.list_(pa.list_(pa.int64()))),
        ("token_ids", pa.list_(pa.int32())),
        ("rollout_logprob", pa.list_(pa.float32())),
        # What wrote the response tokens from `start` on; empty: the row's own version wrote all.
        ("segments", pa.list_(pa.struct([(name, pa.int64()) for name in Segment._fields]))),
    ]
)
CAME_LATER = ("segments",)  # columns that ledgers of earlier versions lack

# Values in lists, such as logprobs, hardly ever repeat: a dictionary of them would cost time, and
# make the file larger.
DICTIONARIES = [field.name for field in SCHEMA if not pa.types.is_list(field.type)]
BLOCK_ROWS = 4096  # made into arrays at once: their texts must have less than 2 GiB
# JSON of what a reward was made of; only in files of tasks that name its parts.
PARTS = pa.field("reward_parts", pa.string())

# Split -> folder of the run. `start` is one sample of each held-out prompt, from the weights of the
# start, at the training temperature: the tokens of `eval/entropy`.
FOLDERS = {"train": "rollouts", "eval": "evaluations", "start": "evaluations/start"}

ROUNDING = 1e-3  # nats: a logprob of a sure token may be a little above 0


class LedgerError(ValueError):
    """A ledger file that cannot be read, or that is not what its name says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What was drawn for one step, and where in the data order the next step goes on."""

    step: int
    groups: tuple[Group, ...]
    next_draw: int
    source_step: int  # its weights are those after this step
    policy_version: int
    reward_errors: int  # checks that hung, crashed or gave no finite number
    teachers: tuple[Rollout, ...] = ()  # responses that may join a group; the method decides

    @property
    def rollouts(self) -> list[Rollout]:
        return [rollout for group in self.groups for rollout in group.rollouts]


def ledger_path(folder: Path, step: int) -> Path:
    """Returns where the file of a step is, or would be."""
    return folder / f"step_{step:06d}.parquet"


def recorded_steps(folder: Path) -> list[int]:
    """Returns the steps that a folder has files of, in order; files of other names are no steps."""
    names = (path.stem.removeprefix("step_") for path in folder.glob("step_*.parquet"))
    return sorted(int(name) for name in names if name.isdecimal())


def write_batch(folder: Path, batch: Batch, texts: Mapping[RolloutKey, Sequence[str]]) -> Path:
    """Writes the step's file durably; `texts` are the decoded turns, for people to read."""
    rollouts = [*batch.rollouts, *batch.teachers]
    header = {
        "step": batch.step,
        "next_draw": batch.next_draw,
        "source_step": batch.source_step,
        "policy_version": batch.policy_version,
        "reward_errors": batch.reward_errors,
        "draws": [group.draw for group in batch.groups],
    }
    text = json.dumps(header)
    # The checksum of parquet's pages covers the rows, not this text.
    metadata = {"isentropic": text, "isentropic_crc32": str(zlib.crc32(text.encode()))}
    schema = SCHEMA.append(PARTS) if any(each.reward_parts for each in rollouts) else SCHEMA
    blocks = [rollouts[start : start + BLOCK_ROWS] for start in range(0, len(rollouts), BLOCK_ROWS)]
    table = pa.concat_tables(_table(block, texts, schema) for block in blocks or [[]])
    path = ledger_path(folder, batch.step)
    with replace_durably(path) as temporary:
        pq.write_table(
            table.replace_schema_metadata(metadata),
            temporary,
            compression="zstd",
            use_dictionary=DICTIONARIES,
            write_page_checksum=True,
        )
    return path


def read_batch(
    folder: Path, step: int, *, vocab_size: int | None = None, unfinished: bool = False
) -> Batch | None:
    """Returns the step's batch, bit for bit as it was written; None if it was never drawn.

    Reads the whole file: the sums of its pages, then the sense of every row.

    Args:
        vocab_size: tokens of the model that the batch is for; None does not bound them.
        unfinished: it may hold rollouts that are still being written.

    Raises:
        LedgerError: the file is damaged, holds what no run draws, or belongs to another step.
    """
    path = ledger_path(folder, step)
    if not path.exists():
        return None
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        metadata = table.schema.metadata or {}
        if b"isentropic_crc32" not in metadata:
            raise ValueError(
                "it has no checksum: another version of this package may have written it"
            )
        if zlib.crc32(metadata[b"isentropic"]) != int(metadata[b"isentropic_crc32"]):
            raise ValueError("a bit of its metadata has changed")
        _check_columns(table.schema)
        header = json.loads(metadata[b"isentropic"])
        rollouts = [_rollout(row) for row in _rows(table)]
        _check_keys(header, rollouts)
        _check_siblings(header, rollouts)
        for row, rollout in enumerate(rollouts):
            _check_rollout(rollout, row, vocab_size)
            if not (unfinished or rollout.is_finished):
                raise ValueError(f"its row {row}, rollout {tuple(rollout.key)}, is not finished")
        batch = _batch(header, rollouts)
    except (
        OSError,
        LookupError,
        ValueError,
        TypeError,
        ArithmeticError,
        pa.ArrowException,
    ) as error:
        raise LedgerError(
            f"{path} cannot be read as a ledger file ({error}). Files appear whole or not at all, "
            "so it was damaged later: restore it, or move it away to have the step drawn again "
            "from the same seeds."
        ) from error
    if batch.step != step:
        raise LedgerError(
            f"{path} holds step {batch.step}, not step {step}: it was renamed or copied. Put it "
            "back."
        )
    return batch


def _check_columns(schema: pa.Schema) -> None:
    """Raises ValueError if a column is missing or of another type, say a reward that is text."""
    for field in SCHEMA:
        index = schema.get_field_index(field.name)
        if index < 0 and field.name in CAME_LATER:
            continue
        if index < 0 or schema.field(index).type != field.type:
            has = "missing" if index < 0 else f"of type {schema.field(index).type}"
            raise ValueError(f"its column {field.name} is {has}; it must be {field.type}")


def _check_keys(header: dict, rollouts: Sequence[Rollout]) -> None:
    """Raises ValueError if two rollouts share a key, or if a draw is not one of the step's."""
    keys = [rollout.key for rollout in rollouts]
    if len(set(keys)) < len(keys):
        twice = next(key for key, count in Counter(keys).items() if count > 1)
        raise ValueError(f"it has two rollouts of the key {tuple(twice)}")
    drawn = {rollout.key.draw for rollout in rollouts if not rollout.is_teacher}
    if drawn != set(header["draws"]) or len(set(header["draws"])) < len(header["draws"]):
        raise ValueError(f"its rollouts are of the draws {sorted(drawn)}, not of {header['draws']}")
    if drawn and max(drawn) >= header["next_draw"]:
        raise ValueError(f"its next draw, {header['next_draw']}, is among those that it holds")
    if header["reward_errors"] < 0:
        raise ValueError(f"it counts {header['reward_errors']} reward errors")


def _check_siblings(header: dict, rollouts: Sequence[Rollout]) -> None:
    """Raises ValueError if a rollout does not belong to the file's step, or to its group."""
    prompts: dict[int, Prompt] = {}
    samples: dict[tuple[int, int], set[int]] = {}
    for rollout in rollouts:
        if rollout.is_teacher:
            continue
        for name in ("step", "source_step", "policy_version"):
            value = getattr(rollout, name)
            # A rollout in segments may have been finished, or last been written on, before.
            if value != header[name] and not (rollout.segments and 0 <= value < header[name]):
                raise ValueError(
                    f"its rollout {tuple(rollout.key)} has the {name} {value}, the file {header[name]}"
                )
        draw, wave, sample = rollout.key[1:]
        samples.setdefault((draw, wave), set()).add(sample)
        if prompts.setdefault(draw, rollout.prompt) != rollout.prompt:
            raise ValueError(f"its rollouts of draw {draw} have different prompts")
    for (draw, wave), numbers in samples.items():
        if numbers != set(range(len(numbers))):
            raise ValueError(f"draw {draw}, wave {wave} lacks samples: it has {sorted(numbers)}")


def _check_rollout(rollout: Rollout, row: int, vocab_size: int | None) -> None:
    """Raises ValueError if a rollout cannot have been drawn: whole bytes may be nonsense."""
    tokens = rollout.token_ids
    turns = rollout.turns
    logprob = rollout.rollout_logprob
    ends = [0, *(place for turn in turns for place in turn), len(tokens)]
    problem = None
    outside = tokens[(tokens < 0) | (tokens >= (math.inf if vocab_size is None else vocab_size))]
    if len(outside):
        problem = f"has the token {outside[0]}"
        if vocab_size is not None:
            problem += f"; the model has the tokens 0 to {vocab_size - 1}"
    elif any(before > after for before, after in pairwise(ends)):
        problem = f"has the turns {turns} in {len(tokens)} tokens"
    elif len(logprob) != rollout.num_response_tokens:
        problem = f"has {len(logprob)} logprobs for {rollout.num_response_tokens} response tokens"
    elif not rollout.is_teacher and not np.isfinite(logprob).all():
        problem = "has a logprob that is not a finite number"
    elif not rollout.is_teacher and len(logprob) and logprob.max() > ROUNDING:
        problem = f"has the logprob {logprob.max():.3g}, a probability above 1"
    elif not _has_its_reward(rollout):
        problem = f"has the reward {rollout.reward}"
    elif not (math.isfinite(rollout.temperature) and rollout.temperature >= 0):
        problem = f"has the temperature {rollout.temperature}"
    elif rollout.finish_reason not in get_args(FinishReason):
        problem = f"has the finish reason {rollout.finish_reason!r}"
    elif min(rollout.key[1:]) < 0 or rollout.policy_version < 0:
        problem = f"has a negative number in its key or policy version {rollout.policy_version}"
    elif not _fits(rollout.segments, rollout):
        problem = f"has the segments {[tuple(segment) for segment in rollout.segments]}"
    if problem:
        raise ValueError(f"its row {row}, rollout {tuple(rollout.key)}, {problem}")


def _has_its_reward(rollout: Rollout) -> bool:
    """Returns True if the reward is a number; of a teacher, or before it is graded, it may be NaN."""
    if math.isnan(rollout.reward):
        return rollout.is_teacher or not rollout.is_finished
    return not math.isinf(rollout.reward)


def _fits(segments: Sequence[Segment], rollout: Rollout) -> bool:
    """Returns True if segments follow each other, from the first token to the row's own version."""
    if not segments:
        return rollout.is_finished
    starts = [segment.start for segment in segments]
    steps = [segment.step for segment in segments]
    versions = [(segment.source_step, segment.policy_version) for segment in segments]
    return (
        starts == sorted(set(starts))
        and starts[0] == 0
        and starts[-1] < rollout.num_response_tokens
        and steps == sorted(steps)
        and versions == sorted(versions)
        and versions[-1] == (rollout.source_step, rollout.policy_version)
        and steps[-1] <= rollout.step
    )


def _batch(header: dict, rollouts: Sequence[Rollout]) -> Batch:
    by_draw: dict[int, list[Rollout]] = {draw: [] for draw in header["draws"]}
    for rollout in rollouts:
        if not rollout.is_teacher:
            by_draw[rollout.key.draw].append(rollout)
    return Batch(
        step=header["step"],
        groups=tuple(
            Group(draw=draw, prompt=rows[0].prompt, rollouts=tuple(rows))
            for draw, rows in by_draw.items()
        ),
        next_draw=header["next_draw"],
        source_step=header["source_step"],
        policy_version=header["policy_version"],
        reward_errors=header["reward_errors"],
        teachers=tuple(rollout for rollout in rollouts if rollout.is_teacher),
    )


def _table(
    rollouts: Sequence[Rollout], texts: Mapping[RolloutKey, Sequence[str]], schema: pa.Schema
) -> pa.Table:
    """Makes one row per rollout. No token becomes a Python object: millions of them take minutes."""
    prompts = {id(rollout.prompt): rollout.prompt for rollout in rollouts}
    written = {place: _prompt_text(prompt) for place, prompt in prompts.items()}
    columns: dict[str, Any] = {
        **{
            name: [getattr(rollout.key, name) for rollout in rollouts]
            for name in RolloutKey._fields
        },
        "prompt_id": [rollout.prompt.prompt_id for rollout in rollouts],
        "prompt": [written[id(rollout.prompt)] for rollout in rollouts],
        "response": [list(texts.get(rollout.key, ())) for rollout in rollouts],
        "reward_parts": [json.dumps(rollout.reward_parts) for rollout in rollouts],
        "turns": [[list(span) for span in rollout.turns] for rollout in rollouts],
        "segments": [[part._asdict() for part in rollout.segments] for rollout in rollouts],
        "token_ids": _lists([rollout.token_ids for rollout in rollouts], np.int32),
        "rollout_logprob": _lists([rollout.rollout_logprob for rollout in rollouts], np.float32),
    }
    return pa.table(
        [
            pa.array(
                columns[name]
                if name in columns
                else [getattr(rollout, name) for rollout in rollouts],
                type=schema.field(name).type,
            )
            for name in schema.names
        ],
        schema=schema,
    )


def _lists(arrays: Sequence[NDArray], dtype: type) -> pa.ListArray:
    """Lays arrays end to end as one column, a list per row."""
    ends = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(join(arrays, dtype).astype(dtype)))


def _prompt_text(prompt: Prompt) -> str:
    return json.dumps(
        {
            "messages": prompt.messages,
            "answer": prompt.answer,
            "media": prompt.media,
            "metadata": prompt.metadata,
            "reward_right": prompt.reward_right,
        }
    )


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Gives the rows; their tokens and logprobs as arrays, for the same reason as in `_table`."""
    arrays = {name: _arrays(name, table[name]) for name in ("token_ids", "rollout_logprob")}
    for index, row in enumerate(table.drop_columns(list(arrays)).to_pylist()):
        yield row | {name: column[index] for name, column in arrays.items()}


def _arrays(name: str, column: pa.ChunkedArray) -> list[NDArray]:
    """Gives a column of lists as one array per row; raises ValueError if a value is missing."""
    arrays: list[NDArray] = []
    for chunk in column.chunks:
        values = chunk.flatten()
        if chunk.null_count or values.null_count:
            raise ValueError(f"its column {name} lacks values")
        arrays += cut(values.to_numpy(zero_copy_only=False), chunk.value_lengths().to_numpy())
    return arrays


def _rollout(row: dict) -> Rollout:
    values = json.loads(row["prompt"])
    prompt = Prompt(
        prompt_id=row["prompt_id"],
        messages=tuple(values["messages"]),
        answer=values["answer"],
        media=tuple(values["media"]),
        metadata=values.get("metadata", ""),  # ledgers of earlier versions have none
        reward_right=values.get("reward_right", 1.0),  # same: 1 was right in them
    )
    return Rollout(
        key=RolloutKey(row["split"], row["draw"], row["wave"], row["sample"]),
        prompt=prompt,
        token_ids=np.array(row["token_ids"], dtype=np.int64),
        turns=tuple((start, end) for start, end in row["turns"]),
        rollout_logprob=np.array(row["rollout_logprob"], dtype=np.float32),
        temperature=row["temperature"],
        seed=row["seed"],
        finish_reason=row["finish_reason"],
        step=row["step"],
        policy_version=row["policy_version"],
        source_step=row["source_step"],
        origin=row["origin"],
        reward=row["reward"],
        reward_parts=json.loads(row.get(PARTS.name) or "{}"),
        segments=tuple(Segment(**segment) for segment in row.get("segments") or ()),
    )
