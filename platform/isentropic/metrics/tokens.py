"""The token table: every number the metrics need, per response token, in canonical order.

The learner returns `logprob` and `entropy` per update; the controller has the rest. What is
computed from the table cannot depend on packing, microbatches or ranks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isentropic.columns import WEIGHTS, columns
from isentropic.records import Sample

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
# That of the objectives (a test holds them equal): they need torch, whose import takes seconds, and
# a run is read without it.
LOG_RATIO_LIMIT = 20.0


class TokenTable:
    """Columns [N] by name, read as attributes: `table.advantage`.

    Those of `columns.COLUMNS` and `columns.WEIGHTS`; `logprob` and `entropy` under the weights of
    the update, in nats; `sequence_id`, which response (0, 1, ...). float64, but for the integer and
    boolean ones. Tokens of a response stand together, in order.
    """

    def __init__(self, **columns: NDArray) -> None:
        lengths = {name: len(column) for name, column in columns.items()}
        assert len(set(lengths.values())) == 1, f"columns of one table differ in length: {lengths}"
        self.columns = columns

    def __getattr__(self, name: str) -> Any:
        if name == "columns" or name not in self.columns:
            raise AttributeError(f"the token table has no column {name!r}")
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.logprob)

    @property
    def log_ratio(self) -> Array:
        """[N] logprob - old_logprob, nats."""
        return self.logprob - self.old_logprob

    @property
    def weight(self) -> Array:
        """[N] what multiplies a token's loss in the update: loss_weight * token_weight."""
        return self.loss_weight * self.token_weight


def token_table(
    samples: Sequence[Sample],
    *,
    weights: Mapping[str, Sequence[float]],
    logprob: NDArray,
    entropy: NDArray,
) -> TokenTable:
    """Make the table of one update.

    Args:
        samples: what the update was trained on, in canonical order.
        weights: by name (`columns.WEIGHTS`), what every token of each sample weighs.
        logprob, entropy: [N] over the response tokens of `samples`, end to end, as the learner
            returned them.
    """
    lengths = np.array([sample.rollout.num_response_tokens for sample in samples], dtype=np.int64)
    # float64 from the start: sums over many tokens are taken of them.
    read = columns(samples, floats=np.float64)
    read |= {name: np.repeat(np.array(weights[name], np.float64), lengths) for name in WEIGHTS}
    return TokenTable(
        sequence_id=np.repeat(np.arange(len(samples)), lengths),
        logprob=np.asarray(logprob, np.float64),
        entropy=np.asarray(entropy, np.float64),
        **read,
    )
