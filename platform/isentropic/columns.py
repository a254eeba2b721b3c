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

_GET = {name: attrgetter(column.path) for name, column in COLUMNS.items()}

# Columns that weigh a loss, by the samples they go over. Set per update: each is a share of all
# tokens of its minibatch.
WEIGHTS: dict[str, Callable[[Sample], bool]] = {
    "loss_weight": lambda sample: True,
    "nll_weight": lambda sample: sample.rollout.is_right,
}


def has(sample: Sample) -> tuple[str, ...]:
    """Name the columns that a sample has."""
    return tuple(name for name, get in _GET.items() if get(sample) is not None)


def columns(samples: Sequence[Sample], floats: type | None = None) -> dict[str, NDArray]:
    """Read the columns of samples, laid end to end: [N] each. One that any sample lacks is left out.

    Args:
        floats: what float32 is widened to; None leaves it.
    """
    lengths = [sample.rollout.num_response_tokens for sample in samples]
    read: dict[str, NDArray] = {}
    for name, column in COLUMNS.items():
        values = [_GET[name](sample) for sample in samples]
        dtype = column.dtype if floats is None or column.dtype is bool else floats
        if column.single:
            narrow = np.array(values, dtype=column.dtype).astype(dtype)
            read[name] = np.repeat(narrow, lengths)
        elif all(value is not None for value in values):
            _check_lengths(name, values, samples, lengths)
            # Every value is float32 first: a number must not depend on who reads it.
            parts = [np.asarray(value, dtype=column.dtype) for value in values]
            read[name] = np.concatenate(parts, dtype=dtype) if parts else np.zeros(0, dtype)
    return read


def _check_lengths(
    name: str, values: Sequence[NDArray], samples: Sequence[Sample], lengths: Sequence[int]
) -> None:
    for value, sample, tokens in zip(values, samples, lengths, strict=True):
        assert len(value) == tokens, (
            f"rollout {sample.rollout.key} has {tokens} response tokens, but {len(value)} of {name}"
        )


def join(parts: Sequence[NDArray], dtype: type = np.float32) -> NDArray:
    """Lay arrays end to end; `dtype` is that of the result if there are none."""
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)


def cut(values: NDArray, lengths: Sequence[int] | NDArray[np.int64]) -> list[NDArray]:
    """Cut an array into parts of these lengths: what `join` did, undone."""
    return np.split(values, np.cumsum(lengths)[:-1]) if len(lengths) else []
