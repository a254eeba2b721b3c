"""What became of a step's rollouts: one row each, trained or not; the ledger has the rollouts."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from isentropic.durable import replace_durably
from isentropic.methods.fates import Fate

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("split", pa.string()),
        ("draw", pa.int64()),
        ("wave", pa.int64()),
        ("sample", pa.int64()),
        ("fate", pa.string()),  # a key of methods.fates.FATES
        ("source", pa.string()),  # new: drawn for this step | queue: for an earlier one
        ("origin", pa.string()),  # policy | teacher:<name>
        ("policy_version", pa.int64()),
        ("reward", pa.float64()),
        ("shaped_reward", pa.float64()),  # null if shaping took the rollout out of its group
        ("tokens", pa.int64()),
        # Means over the response's tokens, null if the rollout was not trained on.
        ("advantage", pa.float64()),
        ("advantage_abs", pa.float64()),  # differs from |advantage| if a method reweights tokens
        ("old_logprob", pa.float64()),
        ("old_entropy", pa.float64()),
    ]
)


def write_fates(folder: Path, step: int, fates: Iterable[Fate]) -> Path:
    """Writes step_*.parquet in `folder`: key, fate, rewards, and means of what was trained with.

    The rows are those of everything drawn for the step, and of the earlier rollouts that left the
    queue in it.
    """
    ordered = sorted(fates, key=lambda fate: fate.rollout.key)
    folder.mkdir(exist_ok=True)
    path = folder / f"step_{step:06d}.parquet"
    table = pa.Table.from_pylist([_row(step, fate) for fate in ordered], schema=SCHEMA)
    with replace_durably(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return path


def _row(step: int, fate: Fate) -> dict[str, object]:
    rollout, sample = fate.rollout, fate.sample
    shaped = rollout.shaped_reward
    row: dict[str, object] = {
        "step": step,
        **rollout.key._asdict(),
        "fate": fate.name,
        "source": "new" if rollout.step == step else "queue",
        "origin": rollout.origin,
        "policy_version": rollout.policy_version,
        "reward": rollout.reward,
        "shaped_reward": None if np.isnan(shaped) else shaped,
        "tokens": rollout.num_response_tokens,
    }
    if sample is not None:
        row |= {
            "advantage": _mean(sample.advantage),
            "advantage_abs": _mean(np.abs(sample.advantage)),
            "old_logprob": _mean(sample.old.logprob),
            "old_entropy": _mean(sample.old.entropy),
        }
    return row


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values, dtype=np.float64))
