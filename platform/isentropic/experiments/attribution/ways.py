"""Ways to sort the tokens of an update: whose part of the entropy's change is added up."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from isentropic.checks import check_choice
from isentropic.controller.reporting import UpdateTokens
from isentropic.controller.step import Update
from isentropic.metrics.classes import (
    CLASSES,
    class_index,
    high_by_probability,
    high_by_sensitivity,
)
from isentropic.metrics.entropy import DECILES
from isentropic.metrics.ledger import SOURCES, source_index

# Names of the classes, and [N] which of them each token is of.
Sorted = tuple[tuple[str, ...], NDArray[np.int64]]


def _by_class(update: Update, tokens: UpdateTokens, p_split: float) -> Sorted:
    high = high_by_probability(tokens.table.old_logprob, p_split)
    return CLASSES, class_index(tokens.table.advantage, high)


def _by_class_s(update: Update, tokens: UpdateTokens, p_split: float) -> Sorted:
    return CLASSES, class_index(
        tokens.table.advantage, high_by_sensitivity(tokens.table.sensitivity)
    )


def _by_side(update: Update, tokens: UpdateTokens, p_split: float) -> Sorted:
    sides = tokens.sides(update)
    return ("low", "high", "other"), np.where(sides.low, 0, np.where(sides.high, 1, 2))


def _by_source(update: Update, tokens: UpdateTokens, p_split: float) -> Sorted:
    return SOURCES, source_index(update.samples)


def _by_position(update: Update, tokens: UpdateTokens, p_split: float) -> Sorted:
    lengths = [len(sample.advantage) for sample in update.samples]
    tenths = [np.arange(length) * DECILES // max(length, 1) for length in lengths]
    return tuple(f"decile_{d}" for d in range(DECILES)), np.concatenate(tenths).astype(np.int64)


def _by_wave(update: Update, tokens: UpdateTokens, p_split: float) -> Sorted:
    later = [int(sample.rollout.key.wave > 0) for sample in update.samples]
    return ("first", "later"), _repeated(later, update)


def _by_prompt(update: Update, tokens: UpdateTokens, p_split: float) -> Sorted:
    draws = [sample.rollout.key.draw for sample in update.samples]
    names, index = np.unique(draws, return_inverse=True)
    return tuple(f"draw_{name}" for name in names), _repeated(index, update)


def _repeated(values: Sequence[int] | NDArray, update: Update) -> NDArray[np.int64]:
    lengths = [len(sample.advantage) for sample in update.samples]
    return np.repeat(np.asarray(values, dtype=np.int64), lengths)


WAYS: dict[str, Callable[[Update, UpdateTokens, float], Sorted]] = {
    "class": _by_class,  # sign of the advantage, probability under the old policy
    "class_s": _by_class_s,  # sign of the advantage, sign of S
    "side": _by_side,  # of the clip
    "source": _by_source,  # new, queue, replay, teacher
    "position": _by_position,  # tenth of the response
    "wave": _by_wave,
    "prompt": _by_prompt,
}
OPEN = ("prompt",)  # ways with as many classes as the data has


def sort_tokens(
    by: Sequence[str], update: Update, tokens: UpdateTokens, p_split: float
) -> dict[str, Sorted]:
    """Sorts the tokens of an update in each of the ways.

    p_split: probability from which on a token counts as high.
    """
    return {way: WAYS[way](update, tokens, p_split) for way in by}


def sums(sorted_tokens: Mapping[str, Sorted], values: NDArray) -> dict[str, float]:
    """Adds up values [N] by "<way>/<class>", of every class that the way has."""
    return {
        f"{way}/{name}": float(part)
        for way, (names, index) in sorted_tokens.items()
        for name, part in zip(
            names, np.bincount(index, weights=values, minlength=len(names)), strict=True
        )
    }


def check_ways(by: Sequence[str], *, exact: bool) -> None:
    """Raises ValueError for a way that is none, or that the exact view cannot have."""
    for way in by:
        check_choice("by", way, WAYS)
        if exact and way in OPEN:
            closed = ", ".join(name for name in WAYS if name not in OPEN)
            raise ValueError(
                f"by={way} with exact=true would need a momentum buffer for every {way} that was "
                f"ever drawn. Choose from {closed}, or leave exact=true out."
            )
