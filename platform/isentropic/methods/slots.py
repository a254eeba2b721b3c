"""The slots that a method fills: one dataclass per implementation, chosen by its `name`.

The dataclass holds the settings and has the methods of its slot: it IS the slot. Shaping, reweight,
reuse and steering may hold state during a run, so their dataclasses are asked for `build()`, which
gives the object of this run; one without state gives itself. (A frozen config cannot hold state: a sweep
would share it between runs.)

Within a step the order is: sampling (while rollouts are drawn), shaping, advantage, filter, reuse,
reweight. Steering is the run's entropy controller, at most one; `control/controller.py` says where
in a step it may act. The state of reweight, reuse and steering goes into the checkpoint through
`state_dict`; that of shaping is bound anew.

A new implementation is a file, a line in experiments/settings/slots.py, a YAML in conf/<slot>/, a
test. The files here are the slots with what many papers share; control/ has the controllers; papo/,
oger/ and uec_rl/ hold what one paper added. Token weights and reductions (objectives/tokens/) are
slots of the same shape.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from isentropic.records import Floats, Group, Rollout, RolloutKey, Sample, TokenScores


@dataclass(frozen=True, kw_only=True)
class Wave:
    """What to draw next: new prompts of the data order, or more samples for earlier prompts."""

    new_prompts: int = 0
    draws: tuple[int, ...] = ()
    group_size: int
    temperature: float
    top_p: float = 1.0
    top_k: int = -1


class Sampling(Protocol):
    """Decides what a step draws, on task rewards only; all waves are of one policy version."""

    max_groups: int | None  # groups that go on after the filter, in the order of draws; None: all

    def next_wave(self, groups: Sequence[Group]) -> Wave | None:
        """The next wave, given the step's graded groups so far (none at first), or None to stop."""
        ...

    def metrics(self, groups: Sequence[Group]) -> dict[str, float]:
        """Metrics of everything that a step drew."""
        ...


class Shaping(Protocol):
    """Writes `shaped_reward` and may exchange rollouts of a group; never touches `reward`.

    Without teachers, `bind` does nothing, `candidates` gives none, and `adjust` changes nothing.
    """

    fates: tuple[str, ...]  # that it can give: "replaced", or none

    def bind(self, *, chat: Any, task: Any, model_path: str) -> None:
        """Takes what teachers and encoders need of the run; called once, before the first step.

        Raises:
            ValueError: bad input.
        """
        ...

    def candidates(self, groups: Sequence[Group]) -> list[Rollout]:
        """Teacher rollouts that may join this step, with new keys, to be scored with the others."""
        ...

    def shape(
        self,
        groups: Sequence[Group],
        scores: Mapping[RolloutKey, TokenScores],
        teachers: Sequence[Rollout] = (),
    ) -> tuple[list[Group], dict[str, float]]:
        """Shaped groups, and the step's metrics of the shaping.

        Args:
            scores: of the old-policy pass.
            teachers: what `candidates` gave, or gave when the step was drawn.
        """
        ...

    def adjust(
        self, groups: Sequence[Group], advantages: Mapping[RolloutKey, float]
    ) -> tuple[dict[RolloutKey, float], dict[str, float]]:
        """Bounds the advantages of teachers before the filter; gives all of them, and metrics."""
        ...


class Advantage(Protocol):
    """Turns the rewards of one wave of one group into one number per rollout."""

    def __call__(self, rewards: Floats) -> Floats:
        """[G] shaped rewards -> [G] advantages."""
        ...


class Filter(Protocol):
    """Decides which rollouts are trained on."""

    fates: tuple[str, ...]  # that it can give besides "trained"

    def judge(self, group: Group, advantages: Mapping[RolloutKey, float]) -> dict[RolloutKey, str]:
        """The fate of every rollout of a shaped group: "trained", or why not (see `fates.py`)."""
        ...

    def metrics(self, kept: Mapping[RolloutKey, float]) -> dict[str, float]:
        """Metrics of a step, from the advantages of all rollouts that it passed."""
        ...


class Reweight(Protocol):
    """Makes token advantages of rollout advantages."""

    def weigh(
        self, samples: Sequence[Sample], entropy_mean: float
    ) -> tuple[list[Sample], dict[str, float]]:
        """Samples with new `advantage` [N], and metrics.

        Args:
            entropy_mean: the step's `entropy/mean`, in nats.
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Reuse(Protocol):
    """Decides what is trained on besides, or instead of, the new batch."""

    fates: tuple[str, ...]  # that it can give: "queued" and "overflowed", or none
    overflowed: Sequence[Sample]  # what the last `take` lost, also of earlier steps

    def take(self, step: int, new: Sequence[Sample]) -> list[Sample]:
        """The samples to train on now; those not of this step are marked source='queue'."""
        ...

    def trained(self, step: int, samples: Sequence[Sample]) -> None:
        """Called after the updates on `samples` (with the scores they were trained with)."""
        ...

    def replay(self, step: int) -> list[Sample]:
        """A further batch to train on, as it was stored, marked source='replay'; mostly empty."""
        ...

    def updates(self, samples: Sequence[Sample], per_batch: int) -> int:
        """The number of optimizer steps to make on what `take` or `replay` gave.

        Args:
            per_batch: learner.updates_per_rollout.
        """
        ...

    def metrics(self, step: int) -> dict[str, float]:
        """Sizes and ages at the end of the step, after `replay`."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
