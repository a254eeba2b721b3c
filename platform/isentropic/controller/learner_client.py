"""The learner's side of a step, in records: score rollouts, train on samples. Packing is `batching`'s."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from isentropic import batching
from isentropic.columns import join
from isentropic.config import Config
from isentropic.controller.protocols import LearnerGroup
from isentropic.records import Floats, Rollout, RolloutKey, Sample, TokenScores
from isentropic.seeds import hash_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One optimizer step, its tokens in the order of `samples`."""

    samples: tuple[Sample, ...]
    weights: dict[str, list[float]]  # by name, of every token of each sample
    term_coefficients: dict[str, float]
    seed: int
    policy_version: int  # of the weights it started from
    logprob: Floats  # [N] under the weights of this update
    entropy: Floats  # [N] same
    grad_norm: float
    skipped: bool
    learning_rate: float
    seconds: float
    mfu: float | None  # mean over the ranks; GPUs alone


class LearnerClient:
    """Talks to the learner ranks in packed batches, to the loop in rollouts and samples."""

    def __init__(self, config: Config, learner: LearnerGroup) -> None:
        self._config, self._learner = config, learner
        self._reference = config.terms.kl is not None
        self.order = 0  # of the prompts over a step's updates; a branch tries others

    async def score(
        self, rollouts: Sequence[Rollout], *, reference: bool = True
    ) -> dict[RolloutKey, TokenScores]:
        """Token statistics of each rollout under the current weights."""
        if not rollouts:
            return {}
        batches = batching.score_batches(
            rollouts, self._learner.num_ranks, self._config.learner.microbatch_tokens
        )
        results = await self._learner.score(batches, reference=reference and self._reference)
        scores = batching.unpack_scores(batches, results, len(rollouts))
        return {rollout.key: score for rollout, score in zip(rollouts, scores, strict=True)}

    async def rescore(self, samples: Sequence[Sample]) -> list[Sample]:
        """Queued samples with old scores of the weights they are about to be trained from; the others unchanged."""
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
        term_coefficients: dict[str, float],
        version: int,
        first: int = 0,
    ) -> tuple[list[Update], int]:
        """`count` updates on minibatches of prompts, fewer where there are fewer prompts; and the version after.

        `version` is the one they start from, `first` counts the updates that the step has made already.
        """
        if not samples:
            return [], version
        config = self._config
        plan = batching.plan_updates(samples, count, self.order)
        batches, weights = batching.step_batches(
            step=step,
            samples=samples,
            plan=plan,
            num_ranks=self._learner.num_ranks,
            microbatch_tokens=config.learner.microbatch_tokens,
            reduction=config.reduction,
            max_response_tokens=config.rollout.max_response_tokens,
            coefficients=config.objective.at(step),
            term_coefficients=term_coefficients,
            seeds=[
                hash_seed("update", config.seed, step, first + index) for index in range(len(plan))
            ],
        )
        results = await self._learner.update(batches)
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
                    term_coefficients=term_coefficients,
                    seed=batches[0].seeds[index],
                    policy_version=version + sum(not update.skipped for update in updates),
                    logprob=join([logprob for logprob, _ in rows]),
                    entropy=join([entropy for _, entropy in rows]),
                    grad_norm=ranks[0].grad_norm,
                    skipped=ranks[0].skipped,
                    learning_rate=ranks[0].learning_rate,
                    seconds=max(rank.seconds for rank in ranks),
                    mfu=None
                    if results[0].mfu is None
                    else float(np.mean([result.mfu for result in results])),
                )
            )
        return updates, results[0].policy_version


class Stopwatch:
    """Seconds of named phases of one step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str) -> "_Phase":
        return _Phase(self.seconds, name)


class _Phase:
    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: Any) -> None:
        self._seconds[self._name] = (
            self._seconds.get(self._name, 0.0) + time.perf_counter() - self._start
        )
