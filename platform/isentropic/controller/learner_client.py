"""The learner's side of a step, in records: score rollouts, train on samples.

`batching` packs, in a thread: the event loop feeds the engines meanwhile.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from isentropic import batching
from isentropic.columns import join
from isentropic.config import Config
from isentropic.controller.protocols import LearnerGroup
from isentropic.controller.step import Update
from isentropic.objectives.loss.needs import needs_reference
from isentropic.records import (
    MicroBatch,
    Rollout,
    RolloutKey,
    Sample,
    StepBatch,
    StepResult,
    TokenScores,
    UpdateBooks,
    UpdateResult,
)
from isentropic.seeds import hash_seed


class LearnerClient:
    """Talks to the learner ranks in packed batches, to the loop in rollouts and samples."""

    def __init__(
        self,
        config: Config,
        learner: LearnerGroup,
        order: int = 0,
        *,
        attention_share: float = 0.0,
    ) -> None:
        """Prepares to talk to `learner`.

        Args:
            order: which of the ways to put a step's prompts into updates; a branch tries several.
            attention_share: what microbatches are balanced by, as `batching.assign` takes it.
        """
        self._config = config
        self._learner = learner
        self._order = order
        self._attention_share = attention_share
        self._reference = needs_reference(config.objective, config.terms)

    async def score(
        self, rollouts: Sequence[Rollout], *, reference: bool = True
    ) -> dict[RolloutKey, TokenScores]:
        """Token statistics of each rollout under the current weights."""
        if not rollouts:
            return {}
        batches = await asyncio.to_thread(self._packed, rollouts)
        results = await self._learner.score(batches, reference=reference and self._reference)
        scores = await asyncio.to_thread(batching.unpack_scores, batches, results, len(rollouts))
        return {rollout.key: score for rollout, score in zip(rollouts, scores, strict=True)}

    async def rescore(self, samples: Sequence[Sample]) -> list[Sample]:
        """Scores queued samples again, under the weights that they are about to be trained from."""
        queued = [sample for sample in samples if sample.source == "queue"]
        if not queued:
            return list(samples)
        scores = await self.score([sample.rollout for sample in queued])
        fresh = {
            sample.rollout.key: replace(sample, old=scores[sample.rollout.key]) for sample in queued
        }
        return [fresh.get(sample.rollout.key, sample) for sample in samples]

    async def update(
        self,
        step: int,
        samples: Sequence[Sample],
        *,
        count: int,
        coefficients: dict[str, float | None],
        term_coefficients: dict[str, float],
        version: int,
        first: int = 0,
        contexts: Sequence[Rollout] = (),
    ) -> tuple[list[Update], int]:
        """Makes `count` updates on minibatches of prompts, fewer if there are fewer prompts.

        Args:
            version: policy version that they start from.
            coefficients: of the objective, schedules resolved.
            first: updates that the step has made already.
            contexts: rollouts that the entropy's books are kept over; none: no books.

        Returns the updates, and the policy version after them.
        """
        if not samples:
            return [], version
        config = self._config
        plan = batching.plan_updates(samples, count, self._order)
        batches, weights = await asyncio.to_thread(
            batching.step_batches,
            step=step,
            samples=samples,
            plan=plan,
            num_ranks=self._learner.num_batches,
            microbatch_tokens=config.learner.microbatch_tokens,
            reduction=config.reduction,
            max_response_tokens=config.rollout.max_response_tokens,
            coefficients=coefficients,
            term_coefficients=term_coefficients,
            seeds=[
                hash_seed("update", config.seed, step, first + index) for index in range(len(plan))
            ],
            attention_share=self._attention_share,
        )
        batches = await asyncio.to_thread(self._with_contexts, batches, contexts)
        results = await self._learner.update(batches)
        updates = await asyncio.to_thread(
            _unpacked, samples, plan, weights, batches, results, version
        )
        return updates, results[0].policy_version

    def _packed(self, rollouts: Sequence[Rollout]) -> list[list[MicroBatch]]:
        """Packs rollouts that are only to be scored: by rank, its microbatches."""
        return batching.score_batches(
            rollouts,
            self._learner.num_batches,
            self._config.learner.microbatch_tokens,
            self._attention_share,
        )

    def _with_contexts(
        self, batches: Sequence[StepBatch], contexts: Sequence[Rollout]
    ) -> list[StepBatch]:
        """Gives each rank its part of the rollouts that books are kept over."""
        packed = self._packed(contexts)
        return [
            replace(batch, contexts=tuple(rank))
            for batch, rank in zip(batches, packed, strict=True)
        ]


def _unpacked(
    samples: Sequence[Sample],
    plan: Sequence[Sequence[int]],
    weights: Sequence[dict[str, list[float]]],
    batches: Sequence[StepBatch],
    results: Sequence[StepResult],
    version: int,
) -> list[Update]:
    """What the ranks answered, by update, in the order of its samples."""
    sent = batches[0]
    updates: list[Update] = []
    for index, members in enumerate(plan):
        ranks = [result.updates[index] for result in results]
        packed = [batch.updates[index] for batch in batches]
        rows = batching.unpack_columns(
            packed, [(rank.logprob, rank.entropy) for rank in ranks], len(members)
        )
        updates.append(
            Update(
                samples=tuple(samples[member] for member in members),
                weights=weights[index],
                coefficients=sent.coefficients,
                term_coefficients=sent.term_coefficients,
                seed=sent.seeds[index],
                policy_version=version + sum(not update.skipped for update in updates),
                logprob=join([logprob for logprob, _ in rows]),
                entropy=join([entropy for _, entropy in rows]),
                grad_norm=ranks[0].grad_norm,
                skipped=ranks[0].skipped,
                learning_rate=ranks[0].learning_rate,
                seconds=max(rank.seconds for rank in ranks),
                mfu=_mean_mfu(results),
                books=join_books(packed, ranks, len(members)),
                routers=ranks[0].routers,
            )
        )
    return updates


def join_books(
    packed: Sequence[Sequence[MicroBatch]], ranks: Sequence[UpdateResult], count: int
) -> UpdateBooks | None:
    """The books of all ranks, slopes in the order of the update's samples; None if there are none.

    The sums are the same on every rank.

    Args:
        packed: by rank, the microbatches of the update.
        count: samples of the update.
    """
    books = [rank.books for rank in ranks]
    if books[0] is None:
        return None
    slopes = [(rank.logprob_slope, rank.entropy_slope) for rank in books]
    rows = batching.unpack_columns(packed, slopes, count)
    return replace(
        books[0],
        logprob_slope=join([logprob for logprob, _ in rows]),
        entropy_slope=join([entropy for _, entropy in rows]),
    )


def _mean_mfu(results: Sequence[StepResult]) -> float | None:
    if results[0].mfu is None:
        return None
    return float(np.mean([result.mfu for result in results]))
