"""One recorded step with its books: trained as the run did, then the same updates measured.

The first pass is the run's own: its numbers are compared with the recorded line. The second starts
from the same state and makes the same updates, from the very batches that the first sent to the
learner, with the contexts that were asked for. So what is measured cannot change what was trained,
also in a run whose coefficients follow its own books.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from isentropic import batching
from isentropic.columns import cut, join
from isentropic.controller.learner_client import join_books
from isentropic.controller.reporting import UpdateTokens, update_tokens
from isentropic.controller.step import Step, Update
from isentropic.experiments.attribution.ways import Sorted, sort_tokens, sums
from isentropic.experiments.branch.learner import ReplayLearner
from isentropic.experiments.branch.replayer import Replayer
from isentropic.experiments.run.prepare import Prepared
from isentropic.experiments.run.recorded import RecordedRun
from isentropic.metrics.ledger import context_rollouts, token_columns, update_ledger
from isentropic.metrics.sinks.jsonl import plain
from isentropic.records import MicroBatch, StepBatch, StepResult


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is measured.

    Attributes:
        contexts: share of the first wave's rollouts that the entropy is measured on.
        by: ways to sort the tokens.
        exact: the momentum of every class is followed too.
    """

    contexts: float
    by: tuple[str, ...]
    exact: bool


@dataclass(kw_only=True)
class Measured:
    """What one step gave.

    Attributes:
        rows: of each update, as in updates.jsonl; empty if the step has no updates.
        tokens: of each update, the columns of the file of tokens.
        differing: names of the recorded numbers that came out otherwise; None: none are recorded.
        repeated: the second pass had the logprobs of the first, to the bit.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[dict[str, np.ndarray]] = field(default_factory=list)
    differing: list[str] | None = None
    repeated: bool = True


class KeepsBatches:
    """A `ReplayLearner` that keeps the updates it was asked for, with their results."""

    def __init__(self, learner: ReplayLearner) -> None:
        self._learner = learner
        self.kept: list[tuple[Sequence[StepBatch], list[StepResult]]] = []

    async def update(self, batches: Sequence[StepBatch]) -> list[StepResult]:
        results = await self._learner.update(batches)
        self.kept.append((batches, results))
        return results

    def __getattr__(self, name: str) -> Any:
        return getattr(self._learner, name)


class Meter:
    """Trains recorded steps again, one after the other, and measures those that were asked for."""

    def __init__(
        self, run: RecordedRun, asked: Asked, learner: ReplayLearner, prepared: Prepared
    ) -> None:
        self._run = run
        self._asked = asked
        self._learner = KeepsBatches(learner)
        self._base = Replayer(run.config, self._learner, prepared)

    async def begin(self, start: int) -> None:
        """Goes to the state after step `start`, which has a checkpoint; 0: stays at the start."""
        checkpoint = self._run.checkpoint_before(start) if start else None
        if checkpoint is not None:
            await self._base.restore(*checkpoint)
        assert self._base.step == start, f"no whole checkpoint of step {start}"

    async def step(self, number: int, *, books: bool) -> Measured:
        """Trains the next step; with `books` it is measured, else only the momentum is followed."""
        again = books or self._asked.exact
        if again:
            await self._learner.remember()
        self._learner.kept.clear()
        step = await self._base.train(self._run.batch(number))
        line = plain(await self._base.report(step))
        measured = Measured(differing=self._differing(number, line))
        if again:
            await self._learner.recall()
            sent = [part for part in self._learner.kept if part[0][0].updates]
            parts = [updates for updates in (step.updates, step.replayed) if updates]
            for updates, (batches, results) in zip(parts, sent, strict=True):
                await self._measure(measured, step, updates, batches, results, books=books)
        return measured

    def _differing(self, number: int, line: Mapping[str, Any]) -> list[str] | None:
        recorded = self._run.lines.get(number)
        if recorded is None:
            return None
        return [key for key, value in line.items() if key in recorded and recorded[key] != value]

    async def _measure(
        self,
        measured: Measured,
        step: Step,
        updates: Sequence[Update],
        batches: Sequence[StepBatch],
        before: Sequence[StepResult],
        *,
        books: bool,
    ) -> None:
        """Makes the updates again with books, and adds what they gave to `measured`."""
        config = self._run.config
        seen = [update_tokens(config, update) for update in updates]
        ordered = [
            sort_tokens(self._asked.by, update, tokens, config.accounting.p_split)
            for update, tokens in zip(updates, seen, strict=True)
        ]
        results = await self._learner.update(self._again(step, updates, batches, ordered, books))
        measured.repeated &= all(
            np.array_equal(one.logprob, two.logprob)
            for first, second in zip(before, results, strict=True)
            for one, two in zip(first.updates, second.updates, strict=True)
        )
        if not books or results[0].updates[0].books is None:
            return
        for index, (update, tokens, classes) in enumerate(zip(updates, seen, ordered, strict=True)):
            packed = [batch.updates[index] for batch in batches]
            ranks = [result.updates[index] for result in results]
            closed = join_books(packed, ranks, len(update.samples))
            self._add(measured, replace(update, books=closed), tokens, classes)

    def _again(
        self,
        step: Step,
        updates: Sequence[Update],
        batches: Sequence[StepBatch],
        ordered: Sequence[Mapping[str, Sorted]],
        books: bool,
    ) -> list[StepBatch]:
        """Returns the batches by rank, with contexts, and with the classes of the exact view."""
        config = self._run.config
        rollouts = (
            context_rollouts(step.delivery.batch.rollouts, self._asked.contexts, config.seed)
            if books
            else []
        )
        contexts = batching.score_batches(rollouts, len(batches), config.learner.microbatch_tokens)
        again = [
            replace(batch, contexts=tuple(rank))
            for batch, rank in zip(batches, contexts, strict=True)
        ]
        if not self._asked.exact:
            return again
        names = {way: names for way, (names, _) in ordered[0].items()}
        return [
            replace(batch, classes=names, updates=_with_classes(batch.updates, updates, ordered))
            for batch in again
        ]

    def _add(
        self,
        measured: Measured,
        update: Update,
        tokens: UpdateTokens,
        classes: Mapping[str, Sorted],
    ) -> None:
        contribution = tokens.contribution(update)
        index = len(measured.rows)
        row = update_ledger(
            tokens.table,
            update.samples,
            update.books,
            contribution,
            sides=tokens.sides(update),
            p_split=self._run.config.accounting.p_split,
        )
        row |= {f"ledger/by/{name}": part for name, part in sums(classes, contribution).items()}
        row |= {f"ledger/exact/{owner}": part for owner, part in update.books.owned.items()}
        facts = {"update": index, "policy_version": update.policy_version}
        measured.rows.append(facts | {"skipped": update.skipped} | row)
        columns = token_columns(index, tokens.table, update.samples, contribution, tokens.push)
        columns |= {f"by/{way}": np.array(names)[place] for way, (names, place) in classes.items()}
        measured.tokens.append(columns)


def _with_classes(
    packed: Sequence[Sequence[MicroBatch]],
    updates: Sequence[Update],
    ordered: Sequence[Mapping[str, Sorted]],
) -> tuple[tuple[MicroBatch, ...], ...]:
    """Gives each microbatch of each update the class of every token, by way."""
    result = []
    for microbatches, update, classes in zip(packed, updates, ordered, strict=True):
        lengths = [len(sample.advantage) for sample in update.samples]
        parts = {way: cut(index, lengths) for way, (_, index) in classes.items()}
        result.append(
            tuple(
                replace(
                    batch,
                    fields=batch.fields
                    | {
                        f"class/{way}": join(
                            [rows[row] for row in batch.rows if row != batching.FILLER], np.int64
                        )
                        for way, rows in parts.items()
                    },
                )
                for batch in microbatches
            )
        )
    return tuple(result)
