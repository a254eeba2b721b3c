"""What became of a step's rollouts: one row a sample that was trained on. The ledger has the rollouts themselves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from isentropic.durable import replace_durably
from isentropic.records import Sample


def write_trained(folder: Path, step: int, samples: Sequence[Sample]) -> Path:
    """trained/step_*.parquet: key, source (new | queue | replay), rewards, advantage and old statistics as means.

    `advantage` is the mean over the response's tokens: where a method reweighs tokens, advantage_abs differs from it.
    """
    rollouts = [sample.rollout for sample in samples]
    columns = {
        "step": [step] * len(samples),
        **{
            name: [getattr(rollout.key, name) for rollout in rollouts]
            for name in ("split", "draw", "wave", "sample")
        },
        "source": [sample.source for sample in samples],
        "origin": [rollout.origin for rollout in rollouts],
        "policy_version": [rollout.policy_version for rollout in rollouts],
        "reward": [rollout.reward for rollout in rollouts],
        "shaped_reward": [rollout.shaped_reward for rollout in rollouts],
        "advantage": [float(np.mean(sample.advantage, dtype=np.float64)) for sample in samples],
        "advantage_abs": [
            float(np.mean(np.abs(sample.advantage), dtype=np.float64)) for sample in samples
        ],
        "old_logprob": [float(np.mean(sample.old.logprob, dtype=np.float64)) for sample in samples],
        "old_entropy": [float(np.mean(sample.old.entropy, dtype=np.float64)) for sample in samples],
        "tokens": [rollout.num_response_tokens for rollout in rollouts],
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"step_{step:06d}.parquet"
    with replace_durably(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")
    return path
