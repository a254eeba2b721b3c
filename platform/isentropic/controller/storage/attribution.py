"""Who moved the entropy, token by token: one parquet file per measured step."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from isentropic.durable import replace_durably


def write_attribution(folder: Path, step: int, updates: Sequence[Mapping[str, np.ndarray]]) -> Path:
    """Writes attribution/step_*.parquet, one row per trained token and update.

    `contribution` is in nats: what the token did to the mean entropy over the step's contexts.
    """
    columns = {name: np.concatenate([update[name] for update in updates]) for name in updates[0]}
    folder.mkdir(exist_ok=True)
    path = folder / f"step_{step:06d}.parquet"
    with replace_durably(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")
    return path
