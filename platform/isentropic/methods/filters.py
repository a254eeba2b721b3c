"""Filters by group: which rollouts of a group are trained on, and why the others are not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from isentropic.checks import check_choice
from isentropic.records import Group, Rollout, RolloutKey


def is_flat(rollouts: Sequence[Rollout], on: str) -> bool:
    """Whether all have the same `on` (reward | shaped_reward): no advantage can tell them apart."""
    return len({getattr(rollout, on) for rollout in rollouts}) <= 1


@dataclass(frozen=True, kw_only=True)
class DropFlat:
    """Drops every wave whose rewards are all equal, as DAPO does (arXiv:2503.14476).

    A single member is dropped too, and so is a response without a token.
    """

    name: str
    on: str  # reward | shaped_reward
    fates: ClassVar[tuple[str, ...]] = ("single", "flat", "no_response")

    def __post_init__(self) -> None:
        check_choice("filter.on", self.on, ("reward", "shaped_reward"))

    def judge(self, group: Group, advantages: Mapping[RolloutKey, float]) -> dict[RolloutKey, str]:
        fates = {}
        for wave in waves(group):
            dropped = "single" if len(wave) == 1 else "flat" if is_flat(wave, self.on) else None
            fates |= {rollout.key: dropped or answered(rollout) for rollout in wave}
        return fates

    def metrics(self, kept: Mapping[RolloutKey, float]) -> dict[str, float]:
        return {}


@dataclass(frozen=True, kw_only=True)
class KeepAll:
    """Keeps all but what can have no advantage: a single member, and a response without a token."""

    name: str
    fates: ClassVar[tuple[str, ...]] = ("single", "no_response")

    def judge(self, group: Group, advantages: Mapping[RolloutKey, float]) -> dict[RolloutKey, str]:
        return {
            rollout.key: "single" if len(wave) == 1 else answered(rollout)
            for wave in waves(group)
            for rollout in wave
        }

    def metrics(self, kept: Mapping[RolloutKey, float]) -> dict[str, float]:
        return {}


def waves(group: Group) -> list[tuple[Rollout, ...]]:
    """The rollouts of each wave, first wave first."""
    return [group.wave(wave) for wave in sorted({rollout.key.wave for rollout in group.rollouts})]


def answered(rollout: Rollout) -> str:
    """The fate of a rollout that no other rule drops: it needs a token to be trained on."""
    return "trained" if rollout.num_response_tokens else "no_response"
