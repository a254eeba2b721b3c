"""The entropy ledger: who moved the entropy, in nats, along the steps that were really made.

In a measured step, the learner's books (`learner.books`) split the change of the mean entropy over
the step's contexts into now + momentum + decay, exactly, and give each trained token t two slopes:
j_t along its logprob and i_t along its entropy. Its part of `now` is

    contribution_t = rate * scale * (push_t * j_t - d_entropy_t * i_t)

with push_t = -d loss / d logprob_t and d_entropy_t = d loss / d entropy_t, loss weights included. A
token goes on acting through AdamW's momentum: its whole effect, if the denominator and grad H stay
as they are, is contribution_t * impulse with impulse = (1 - b1^t) / (1 - b1), t here the count
of optimizer steps. Sums over any class of tokens are exact.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isentropic.checks import check_range
from isentropic.metrics.classes import (
    CLASSES,
    ClipSides,
    class_index,
    high_by_probability,
    high_by_sensitivity,
)
from isentropic.metrics.entropy import first_wave
from isentropic.metrics.recheck import recheck_subset
from isentropic.metrics.tokens import Array, TokenTable
from isentropic.records import Rollout, Sample, UpdateBooks

SOURCES = ("new", "queue", "replay", "teacher")


def context_rollouts(rollouts: Sequence[Rollout], share: float, seed: int) -> list[Rollout]:
    """Chooses where the entropy is measured: a share of the first wave's rollouts with a response.

    The choice is that of `recheck_subset`: by a hash, at least two.
    """
    responses = [rollout for rollout in first_wave(rollouts) if rollout.num_response_tokens]
    return recheck_subset(responses, share, seed)


@dataclass(frozen=True, kw_only=True)
class LedgerConfig:
    """When the books are kept, and over which contexts; values live in conf/accounting/."""

    every: int  # steps: every n-th step is measured; 0 measures none
    contexts: float  # share of the first wave's rollouts that the entropy is measured on

    def __post_init__(self) -> None:
        check_range("accounting.ledger.every", self.every, at_least=0)
        check_range(
            "accounting.ledger.contexts",
            self.contexts,
            above=0,
            at_most=1,
            hint="For no ledger write accounting.ledger.every=0.",
        )

    def measures(self, step: int) -> bool:
        """Returns True if the step's books are kept."""
        return self.every > 0 and step % self.every == 0


def contributions(books: UpdateBooks, rate: float, push: Array, d_entropy: Array | None) -> Array:
    """Computes each token's part of `now`: [N] nats.

    Args:
        rate: learning rate of the update.
        push: [N] -d loss / d logprob.
        d_entropy: [N] d loss / d entropy; None if the loss has no entropy in it.
    """
    # The push of an update that was skipped may not be finite; it moved nothing.
    if not books.scale:
        return np.zeros(len(push))
    by_logprob = push * per_push(books, rate)
    if d_entropy is None:
        return by_logprob
    return by_logprob - d_entropy * rate * books.scale * books.entropy_slope.astype(np.float64)


def per_push(books: UpdateBooks, rate: float) -> Array:
    """Computes how much a unit of push does at each token: [N] nats."""
    return rate * books.scale * books.logprob_slope.astype(np.float64)


def update_ledger(
    table: TokenTable,
    samples: Sequence[Sample],
    books: UpdateBooks,
    contribution: Array,
    *,
    sides: ClipSides,
    p_split: float,
) -> dict[str, float]:
    """Sums up the books of one update, in nats per context token; docs/metrics.md has the keys."""
    measured = books.entropy_after - books.entropy_before
    row = {
        "ledger/measured": measured,
        "ledger/first": books.first,
        "ledger/trapezoid": books.trapezoid,
        "ledger/curvature": measured - books.first,
        "ledger/residual": measured - books.trapezoid,
        "ledger/now": books.now,
        "ledger/momentum": books.momentum,
        "ledger/decay": books.decay,
        "ledger/tokens": float(contribution.sum()),
    }
    by_probability = class_index(table.advantage, high_by_probability(table.old_logprob, p_split))
    by_sensitivity = class_index(table.advantage, high_by_sensitivity(table.sensitivity))
    row |= _sums("ledger", CLASSES, by_probability, contribution)
    row |= _sums("ledger_s", CLASSES, by_sensitivity, contribution)
    row |= _sums("ledger/impulse", CLASSES, by_probability, contribution * books.impulse)
    row |= _sums("ledger/source", SOURCES, source_index(samples), contribution)
    for name, side in (("low", sides.low), ("high", sides.high)):
        row[f"ledger/{name}"] = float(contribution[side].sum())
        row[f"ledger/impulse/{name}"] = float(contribution[side].sum() * books.impulse)
    return row


def source_index(samples: Sequence[Sample]) -> Array:
    """Returns [N] index into SOURCES."""
    # A teacher's response counts as the teacher's, whatever queue it came through.
    index = [
        SOURCES.index("teacher" if sample.rollout.is_teacher else sample.source)
        for sample in samples
    ]
    return np.repeat(index, [len(sample.advantage) for sample in samples]).astype(np.int64)


def _sums(prefix: str, names: Sequence[str], index: Array, values: Array) -> dict[str, float]:
    """Adds up the values of each class."""
    sums = np.bincount(index, weights=values, minlength=len(names))
    return {f"{prefix}/{name}": float(part) for name, part in zip(names, sums, strict=True)}


def step_ledger(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Adds up the books of a step's updates; returns {} if the step was not measured."""
    measured = [row for row in rows if "ledger/measured" in row]
    names = [name for name in measured[0] if is_ledger(name)] if measured else []
    return {name: float(sum(row[name] for row in measured)) for name in names}


def is_ledger(name: str) -> bool:
    """Returns True for keys of the books: these are summed over updates, all others averaged."""
    return name.startswith(("ledger/", "ledger_s/")) or name.endswith("/entropy_change")


class Explained:
    """Share of the variance of the measured changes that the trapezoid explains, over the run.

        1 - sum residual^2 / sum (measured - mean)^2

    It keeps running sums (Welford), so that a resumed run goes on with the same numbers.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = 0.0
        self._spread = 0.0
        self._missed = 0.0

    def add(self, step: Mapping[str, float]) -> dict[str, float]:
        """Takes a step's books; returns the share so far, NaN before the third measured step."""
        if "ledger/measured" not in step:
            return {}
        measured = step["ledger/measured"]
        self._count += 1
        deviation = measured - self._mean
        self._mean += deviation / self._count
        self._spread += deviation * (measured - self._mean)
        self._missed += step["ledger/residual"] ** 2
        share = 1 - self._missed / self._spread if self._count > 2 and self._spread else math.nan
        return {"ledger/explained": share}

    def state_dict(self) -> dict[str, Any]:
        return {
            "count": self._count,
            "mean": self._mean,
            "spread": self._spread,
            "missed": self._missed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._count = int(state["count"])
        self._mean = float(state["mean"])
        self._spread = float(state["spread"])
        self._missed = float(state["missed"])


def token_columns(
    update: int, table: TokenTable, samples: Sequence[Sample], contribution: Array, push: Array
) -> dict[str, np.ndarray]:
    """Makes the columns [N] of attribution/step_*.parquet: which token it is, and what it did."""
    lengths = [len(sample.advantage) for sample in samples]
    keys = [sample.rollout.key for sample in samples]
    columns = {
        name: np.repeat([getattr(key, name) for key in keys], lengths)
        for name in ("split", "draw", "wave", "sample")
    }
    return {
        "update": np.full(len(table), update, dtype=np.int32),
        **columns,
        "source": np.repeat([sample.source for sample in samples], lengths),
        "position": np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        "advantage": table.advantage.astype(np.float32),
        "old_logprob": table.old_logprob.astype(np.float32),
        "old_entropy": table.old_entropy.astype(np.float32),
        "sensitivity": table.sensitivity.astype(np.float32),
        "push": push.astype(np.float32),
        "contribution": contribution.astype(np.float32),
    }
