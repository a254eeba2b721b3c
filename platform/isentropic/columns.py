"""The token columns: what there is per response token, by name, and where it stands in a sample.

Microbatches, the token table of the metrics, and checkpoints are all made from COLUMNS: a new
column is one line here. (An objective that is to read it names it in
`objectives.loss.objective.TOKEN_FIELDS` too.) `logprob` and `entropy` under the weights being
trained are no columns: they come from the model with every update.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isentropic.records import Sample


class Column(NamedTuple):
    """One column."""

    path: str  # the attribute of a Sample, dotted
    dtype: type = np.float32
    single: bool = False  # one value per response, repeated over its tokens


COLUMNS: dict[str, Column] = {
    "rollout_logprob": Column("rollout.rollout_logprob"),  # nats, as sampled; NaN for teachers
    "advantage": Column("advantage"),  # reward units
    "token_weight": Column("token_weight"),  # correction of the engine's mismatch; 1 if none
    # Under the weights the step began with:
    "old_logprob": Column("old.logprob"),  # nats
    "old_entropy": Column("old.entropy"),  # nats
    "sensitivity": Column("old.sensitivity"),  # S of `token_statistics`
    "sum_p2": Column("old.sum_p2"),  # sum over the vocabulary of p^2
    "sum_s2": Column("old.sum_s2"),  # sum over the vocabulary of (p (log p + H))^2
    # Under the reference model, nats; samples without reference scores lack the column.
    "ref_logprob": Column("old.ref_logprob"),
    "reward": Column("rollout.reward", single=True),  # of the task
    "is_teacher": Column("rollout.is_teacher", bool, single=True),
}

# Columns that weigh a loss, by the samples they go over. Set per update: each is a share of all
# tokens of its minibatch.
WEIGHTS: dict[str, Callable[[Sample], bool]] = {
    "loss_weight": lambda sample: True,
    "nll_weight": lambda sample: sample.rollout.is_right,
}


def columns(sample: Sample) -> dict[str, NDArray]:
    """Read the columns of one sample, [N] each; those it lacks are left out."""
    tokens = sample.rollout.num_response_tokens
    read: dict[str, NDArray] = {}
    for name, column in COLUMNS.items():
        value = attrgetter(column.path)(sample)
        if column.single:
            read[name] = np.full(tokens, value, dtype=column.dtype)
        elif value is not None:
            read[name] = np.asarray(value, dtype=column.dtype)
    wrong = {name: len(value) for name, value in read.items() if len(value) != tokens}
    assert not wrong, f"rollout {sample.rollout.key} has {tokens} response tokens, but {wrong}"
    return read


def join(parts: Sequence[NDArray], dtype: type = np.float32) -> NDArray:
    """Lay arrays end to end; `dtype` is that of the result if there are none."""
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)


def cut(values: NDArray, lengths: Sequence[int] | NDArray[np.int64]) -> list[NDArray]:
    """Cut an array into parts of these lengths: what `join` did, undone."""
    return np.split(values, np.cumsum(lengths)[:-1]) if len(lengths) else []
