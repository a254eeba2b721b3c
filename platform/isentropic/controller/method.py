"""The stages of a method: from graded groups and their scores to weighted samples and fates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from isentropic.columns import cut, join
from isentropic.config import Config
from isentropic.methods.control.controller import EntropyController
from isentropic.methods.fates import FATES, Fate
from isentropic.methods.slots import Advantage, Filter, Reuse, Reweight, Sampling, Shaping
from isentropic.records import Group, Rollout, RolloutKey, Sample, TokenScores


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """Samples with the advantages and token weights that they are trained with."""

    samples: list[Sample]
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """What the filter passed of a step's groups, and what became of every rollout so far."""

    samples: list[Sample]
    metrics: dict[str, float]
    fates: dict[RolloutKey, Fate]


class Method:
    """The stages between the old-policy pass and the updates.

    Owns the state of shaping, reweight and reuse.
    """

    def __init__(self, config: Config) -> None:
        self._sampling: Sampling = config.sampling
        self._shaping: Shaping = config.shaping.build()
        self._advantage: Advantage = config.advantage
        self._filter: Filter = config.filter
        self._reweight: Reweight = config.reweight.build()
        self._token_weight = config.token_weight
        self._reuse: Reuse = config.reuse.build()
        self._steered_fates: tuple[str, ...] = config.steering.fates

    def bind(self, *, chat: Any, task: Any, model_path: str) -> None:
        """Takes what teachers and encoders need of the run; called once, before the first step.

        Raises:
            ValueError: bad input.
        """
        self._shaping.bind(chat=chat, task=task, model_path=model_path)

    def candidates(
        self, groups: Sequence[Group], recorded: Sequence[Rollout] = ()
    ) -> list[Rollout]:
        """Rollouts that shaping may put into a group (teachers'), to be scored with the rest.

        `recorded` are those of the ledger: they are taken again if the method has teachers at all.
        """
        known = {rollout.key: rollout for rollout in recorded}
        return [known.get(rollout.key, rollout) for rollout in self._shaping.candidates(groups)]

    def select(
        self,
        groups: Sequence[Group],
        scores: Mapping[RolloutKey, TokenScores],
        teachers: Sequence[Rollout] = (),
        controller: EntropyController = EntropyController(),  # noqa: B008, it has no state
    ) -> Selected:
        """Chooses what to train on, with what advantage; cuts groups beyond `max_groups`.

        `controller` has the last word on advantages and verdicts, once it has sensed the entropy.
        """
        shaped, metrics = self._shaping.shape(groups, scores, teachers)
        advantages: dict[RolloutKey, float] = {}
        for group in shaped:
            advantages |= self._advantages(group)
        advantages, adjusted = self._shaping.adjust(shaped, advantages)
        verdicts: dict[RolloutKey, str] = {}
        for group in shaped:
            verdicts |= self._filter.judge(group, advantages)
        choice = controller.choose(shaped, advantages, verdicts, scores)
        advantages, verdicts = dict(choice.advantages), dict(choice.verdicts)
        # The second line gives a verdict to what shaping left in its group; the rest was replaced.
        fates = {r.key: Fate(name="replaced", rollout=r) for r in [*_rollouts(groups), *teachers]}
        fates |= {r.key: Fate(name=verdicts[r.key], rollout=r) for r in _rollouts(shaped)}
        passed = [kept for group in shaped if (kept := _passed(group, verdicts))]
        chosen = passed[: self._sampling.max_groups]
        for group in passed[len(chosen) :]:
            fates |= {rollout.key: Fate(name="surplus", rollout=rollout) for rollout in group}
        samples = [
            _sample(rollout, scores[rollout.key], advantages[rollout.key])
            for group in chosen
            for rollout in group
        ]
        metrics = metrics | adjusted | choice.metrics | self._sampling.metrics(groups)
        metrics |= self._filter.metrics(
            {sample.rollout.key: advantages[sample.rollout.key] for sample in samples}
        )
        metrics |= {"group/taught": len(chosen), "group/surplus": len(passed) - len(chosen)}
        return Selected(samples=samples, metrics=metrics, fates=fates)

    def take(self, step: int, new: Sequence[Sample]) -> list[Sample]:
        """The samples to train on now; queued ones still have the scores they were queued with."""
        return self._reuse.take(step, new)

    def weigh(self, samples: Sequence[Sample], entropy_mean: float) -> Weighed:
        """Gives token advantages and token weights to samples scored under the current weights."""
        # Called for an empty batch too: the reweight slot follows the entropy of every step.
        weighed, metrics = self._reweight.weigh(samples, entropy_mean)
        if not weighed:
            return Weighed(samples=[], metrics=metrics)
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
        metrics |= {name: float(value.mean()) for name, value in result.metrics.items()}
        return Weighed(samples=weighed, metrics=metrics)

    def fates(self, selected: Selected, trained: Sequence[Sample]) -> dict[RolloutKey, Fate]:
        """What became of every rollout of the step: exactly one fate each (see `methods/fates.py`).

        Rollouts of earlier steps are among them if the queue gave them back or lost them in this
        step.

        Args:
            selected: what `select` gave.
            trained: the samples that `take` gave, weighed.
        """
        waiting = {s.rollout.key: Fate(name="queued", rollout=s.rollout) for s in selected.samples}
        lost = {
            sample.rollout.key: Fate(name="overflowed", rollout=sample.rollout)
            for sample in self._reuse.overflowed
        }
        used = {
            sample.rollout.key: Fate(name="trained", rollout=sample.rollout, sample=sample)
            for sample in trained
        }
        return selected.fates | waiting | lost | used

    @property
    def possible_fates(self) -> tuple[str, ...]:
        """Names of the fates that this method can give, in the order of FATES."""
        names = {"trained", *self._shaping.fates, *self._filter.fates, *self._reuse.fates}
        names |= set(self._steered_fates)
        if self._sampling.max_groups is not None:
            names.add("surplus")
        return tuple(name for name in FATES if name in names)

    def trained(self, step: int, samples: Sequence[Sample]) -> None:
        self._reuse.trained(step, samples)

    def replay(self, step: int) -> list[Sample]:
        return self._reuse.replay(step)

    def updates(self, samples: Sequence[Sample], per_batch: int) -> int:
        """How many optimizer steps `samples` are worth."""
        return self._reuse.updates(samples, per_batch)

    def metrics(self, step: int) -> dict[str, float]:
        """Metrics of queue and buffer, after the step."""
        return self._reuse.metrics(step)

    def state_dict(self) -> dict[str, Any]:
        return {"reweight": self._reweight.state_dict(), "reuse": self._reuse.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint; a slot that `state` does not name begins anew."""
        if "reweight" in state:
            self._reweight.load_state_dict(state["reweight"])
        if "reuse" in state:
            self._reuse.load_state_dict(state["reuse"])

    def _advantages(self, group: Group) -> dict[RolloutKey, float]:
        """Advantages wave by wave: each is normalised by itself, never mixed with another."""
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


def _rollouts(groups: Sequence[Group]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group.rollouts]


def _passed(group: Group, verdicts: Mapping[RolloutKey, str]) -> list[Rollout]:
    """The rollouts of a group to train on, in canonical order."""
    kept = [rollout for rollout in group.rollouts if verdicts[rollout.key] == "trained"]
    return sorted(kept, key=lambda rollout: rollout.key)


def _sample(rollout: Rollout, scores: TokenScores, advantage: float) -> Sample:
    tokens = rollout.num_response_tokens
    return Sample(
        rollout=rollout,
        old=scores,
        advantage=np.full(tokens, advantage, dtype=np.float32),
        token_weight=np.ones(tokens, dtype=np.float32),
    )
