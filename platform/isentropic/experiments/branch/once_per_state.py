"""All branches of a point begin with the same old-policy pass: it is made once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isentropic.experiments.branch.learner import ReplayLearner
from isentropic.records import MicroBatch, StepBatch, StepResult, TokenScores

Batches = Sequence[Sequence[MicroBatch]]


class OncePerState:
    """A `ReplayLearner` that scores nothing twice while its weights are the remembered ones."""

    def __init__(self, learner: ReplayLearner) -> None:
        self.num_batches = learner.num_batches
        self._learner = learner
        self._at_remembered = False  # the weights are the remembered ones
        self._known: list[tuple[Batches, bool, list[list[TokenScores]]]] = []

    async def score(self, batches: Batches, *, reference: bool) -> list[list[TokenScores]]:
        if not self._at_remembered:
            return await self._learner.score(batches, reference=reference)
        for known, with_reference, scores in self._known:
            if with_reference == reference and _equal(known, batches):
                return scores
        scores = await self._learner.score(batches, reference=reference)
        self._known.append((batches, reference, scores))
        return scores

    async def update(self, batches: Sequence[StepBatch]) -> list[StepResult]:
        self._at_remembered = False
        return await self._learner.update(batches)

    async def load(self, folder: Path) -> None:
        self._at_remembered = False
        await self._learner.load(folder)

    async def configure(self, **settings: Any) -> None:
        """AdamW starts afresh, but weights stay: what was scored holds."""
        await self._learner.configure(**settings)

    async def remember(self) -> None:
        await self._learner.remember()
        self._at_remembered, self._known = True, []

    async def recall(self) -> None:
        await self._learner.recall()
        self._at_remembered = True


def _equal(one: Batches, other: Batches) -> bool:
    return [len(rank) for rank in one] == [len(rank) for rank in other] and all(
        np.array_equal(a.token_ids, b.token_ids) and np.array_equal(a.predict, b.predict)
        for first, second in zip(one, other, strict=True)
        for a, b in zip(first, second, strict=True)
    )
