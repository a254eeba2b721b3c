"""The slots a method fills. Each slot has a dict name -> entry beside its implementations; a preset picks one a slot.

A step calls them in this order: sampling (while rollouts are drawn), shaping, advantage, filter, reweight, reuse.
Only sampling, reweight and reuse may hold state; what they hold goes into the checkpoint through `state_dict`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from isentropic.records import Floats, Group, Rollout, RolloutKey, Sample, TokenScores


@dataclass(frozen=True, kw_only=True)
class Wave:
    """What to draw next: new prompts of the data order, or further samples for prompts drawn already."""

    new_prompts: int = 0
    draws: tuple[int, ...] = ()
    group_size: int
    temperature: float
    top_p: float = 1.0
    top_k: int = -1


class Sampling(Protocol):
    """Judges on task rewards alone; all waves of a step are drawn under one policy version."""

    def next_wave(self, groups: Sequence[Group]) -> Wave | None:
        """The next wave, given the step's graded groups so far (none at first), or None to stop."""
        ...

    def metrics(self, groups: Sequence[Group]) -> dict[str, float]:
        """Of all that a step drew."""
        ...


class Shaping(Protocol):
    """Writes `shaped_reward`, may exchange rollouts of a group; never touches `reward`.

    Without teachers, `bind` does nothing, `candidates` gives none, and `adjust` changes nothing.
    """

    def bind(self, *, chat: Any, task: Any, model_path: str) -> None:
        """Once, before the first step: what teachers and encoders need of the run. Raises ValueError on bad input."""
        ...

    def candidates(self, groups: Sequence[Group]) -> list[Rollout]:
        """Teacher rollouts that may join this step, to be scored in the old-policy pass; keys of their own."""
        ...

    def adjust(
        self, groups: Sequence[Group], advantages: Mapping[RolloutKey, float]
    ) -> tuple[dict[RolloutKey, float], dict[str, float]]:
        """Advantages of the shaped groups after a bound on those of teachers, and metrics; before the filter."""
        ...

    def shape(
        self,
        groups: Sequence[Group],
        scores: Mapping[RolloutKey, TokenScores],
        teachers: Sequence[Rollout] = (),
    ) -> tuple[list[Group], dict[str, float]]:
        """Shaped groups and the step's metrics of the shaping.

        `scores` are of the old-policy pass; `teachers` what `candidates` gave, or gave when the step was drawn.
        """
        ...


class Advantage(Protocol):
    """Rewards of one wave of one group to one number a rollout."""

    def __call__(self, rewards: Floats) -> Floats:
        """[G] shaped rewards -> [G] advantages."""
        ...


class Filter(Protocol):
    """Which rollouts teach."""

    def keep(self, group: Group, advantages: Mapping[RolloutKey, float]) -> tuple[Rollout, ...]:
        """The rollouts of the group to train on, in canonical order; () drops the group."""
        ...

    def metrics(self, kept: Mapping[RolloutKey, float]) -> dict[str, float]:
        """Of a step, from the advantages of all that was kept."""
        ...


class Reweight(Protocol):
    """Token advantages from rollout advantages."""

    def weigh(
        self, samples: Sequence[Sample], entropy_mean: float
    ) -> tuple[list[Sample], dict[str, float]]:
        """Samples with new `advantage` [N], and metrics. `entropy_mean` is the step's `entropy/mean`, in nats."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Reuse(Protocol):
    """What is trained on besides, or instead of, the new batch."""

    def take(self, step: int, new: Sequence[Sample]) -> list[Sample]:
        """The samples to train on now; those not of this step are marked source='queue'."""
        ...

    def trained(self, step: int, samples: Sequence[Sample]) -> None:
        """Called after the updates on `samples` (with the scores they were trained with)."""
        ...

    def replay(self, step: int) -> list[Sample]:
        """A further batch to train on with its stored fields, marked source='replay'; mostly empty."""
        ...

    def updates(self, samples: Sequence[Sample], per_batch: int) -> int:
        """Optimizer steps to make on what `take` or `replay` gave; `per_batch` is learner.updates_per_rollout."""
        ...

    def metrics(self, step: int) -> dict[str, float]:
        """Sizes and ages at the end of the step, after `replay`."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
