"""From graded groups and their scores to samples: shaping, advantage, filter, queue, reweighting, token weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from isentropic.columns import cut, join
from isentropic.config import Config
from isentropic.methods.slots import Reuse, Reweight, Shaping
from isentropic.records import Group, Rollout, RolloutKey, Sample, TokenScores


@dataclass(frozen=True, slots=True)
class Selected:
    """What a step's groups came to."""

    samples: list[Sample]
    metrics: dict[str, float]


class Method:
    """The method's stages between the old-policy pass and the updates. Owns the state of reweight and reuse."""

    def __init__(self, config: Config) -> None:
        self._shaping: Shaping = config.shaping.build()
        self._advantage = config.advantage.build()
        self._filter = config.filter.build()
        self._reweight: Reweight = config.reweight.build()
        self._token_weight = config.token_weight
        self._reuse: Reuse = config.reuse.build()
        self._sampling = config.sampling.build()
        self._limit = self._sampling.max_groups

    def bind(self, *, chat: Any, task: Any, model_path: str) -> None:
        """Once, before the first step: what teachers and encoders need of the run. Raises ValueError on bad input."""
        self._shaping.bind(chat=chat, task=task, model_path=model_path)

    def candidates(
        self, groups: Sequence[Group], recorded: Sequence[Rollout] = ()
    ) -> list[Rollout]:
        """Rollouts that shaping may put into a group (teachers'), to be scored with the rest.

        `recorded` are those of the ledger: they are taken again where the method has teachers at all.
        """
        known = {rollout.key: rollout for rollout in recorded}
        return [known.get(rollout.key, rollout) for rollout in self._shaping.candidates(groups)]

    def select(
        self,
        groups: Sequence[Group],
        scores: Mapping[RolloutKey, TokenScores],
        teachers: Sequence[Rollout] = (),
    ) -> Selected:
        """Which rollouts teach, and with what advantage; groups beyond the sampling plan's `max_groups` are cut."""
        shaped, metrics = self._shaping.shape(groups, scores, teachers)
        advantages: dict[RolloutKey, float] = {}
        for group in shaped:
            advantages |= self._advantages(group)
        advantages, more = self._shaping.adjust(shaped, advantages)
        lessons = []
        for group in shaped:
            kept = [
                rollout
                for rollout in self._filter.keep(group, advantages)
                if rollout.num_response_tokens
            ]
            if kept:
                lessons.append(
                    [
                        _sample(rollout, scores[rollout.key], advantages[rollout.key])
                        for rollout in kept
                    ]
                )
        taught = lessons[: self._limit]
        samples = [sample for lesson in taught for sample in lesson]
        more |= self._sampling.metrics(groups)
        more |= self._filter.metrics(
            {sample.rollout.key: advantages[sample.rollout.key] for sample in samples}
        )
        return Selected(
            samples,
            metrics
            | more
            | {"group/taught": len(taught), "group/surplus": len(lessons) - len(taught)},
        )

    def take(self, step: int, new: Sequence[Sample]) -> list[Sample]:
        """The samples to train on now; queued ones still carry the scores they were queued with."""
        return self._reuse.take(step, new)

    def weigh(self, samples: Sequence[Sample], entropy_mean: float) -> Selected:
        """Token advantages and token weights, on samples whose scores are of the current weights."""
        weighed, metrics = self._reweight.weigh(
            samples, entropy_mean
        )  # its entropy trajectory has every step
        if not weighed:
            return Selected([], metrics)
        lengths = [len(sample.advantage) for sample in weighed]
        result = self._token_weight.weigh(
            torch.from_numpy(join([sample.old.logprob for sample in weighed])),
            torch.from_numpy(join([sample.rollout.rollout_logprob for sample in weighed])),
            torch.from_numpy(np.repeat(np.arange(len(weighed)), lengths)),
        )
        parts = cut(result.weight.numpy(), lengths)
        weighed = [
            replace(sample, token_weight=part) for sample, part in zip(weighed, parts, strict=True)
        ]
        return Selected(
            weighed, metrics | {name: float(value.mean()) for name, value in result.metrics.items()}
        )

    def trained(self, step: int, samples: Sequence[Sample]) -> None:
        self._reuse.trained(step, samples)

    def replay(self, step: int) -> list[Sample]:
        return self._reuse.replay(step)

    def updates(self, samples: Sequence[Sample], per_batch: int) -> int:
        """How many optimizer steps `samples` are worth."""
        return self._reuse.updates(samples, per_batch)

    def metrics(self, step: int) -> dict[str, float]:
        """Of queue and buffer, after the step."""
        return self._reuse.metrics(step)

    def state_dict(self) -> dict[str, Any]:
        return {"reweight": self._reweight.state_dict(), "reuse": self._reuse.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._reweight.load_state_dict(state["reweight"])
        self._reuse.load_state_dict(state["reuse"])

    def _advantages(self, group: Group) -> dict[RolloutKey, float]:
        """Waves are never mixed: each is normalised by itself."""
        advantages: dict[RolloutKey, float] = {}
        for wave in sorted({rollout.key.wave for rollout in group.rollouts}):
            members = group.wave(wave)
            values = self._advantage(
                np.array([rollout.shaped_reward for rollout in members], dtype=np.float64)
            )
            advantages |= {
                rollout.key: float(value) for rollout, value in zip(members, values, strict=True)
            }
        return advantages


def _sample(rollout: Rollout, scores: TokenScores, advantage: float) -> Sample:
    tokens = rollout.num_response_tokens
    return Sample(
        rollout=rollout,
        old=scores,
        advantage=np.full(tokens, advantage, dtype=np.float32),
        token_weight=np.ones(tokens, dtype=np.float32),
    )
