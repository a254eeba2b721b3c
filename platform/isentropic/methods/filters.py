"""Filters: which rollouts of a group teach."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isentropic.checks import check_choice
from isentropic.methods.uec_rl.keep_rules import KeepRulesConfig
from isentropic.records import Group, Rollout, RolloutKey


def is_flat(rollouts: Sequence[Rollout], on: str) -> bool:
    """Whether all have the same `on` (reward | shaped_reward), so that no advantage can tell them apart."""
    return len({getattr(rollout, on) for rollout in rollouts}) <= 1


@dataclass(frozen=True, kw_only=True)
class DropFlatConfig:
    """DAPO's group filter (arXiv:2503.14476)."""

    name: str
    on: str  # reward | shaped_reward

    def __post_init__(self) -> None:
        check_choice("filter.on", self.on, ("reward", "shaped_reward"))

    def build(self) -> "DropFlat":
        return DropFlat(on=self.on)


class DropFlat:
    """Drops every wave whose rewards are all equal; a single member is always flat."""

    def __init__(self, *, on: str) -> None:
        self._on = on

    def keep(self, group: Group, advantages: Mapping[RolloutKey, float]) -> tuple[Rollout, ...]:
        return _kept([wave for wave in _waves(group) if not is_flat(wave, self._on)])

    def metrics(self, kept: Mapping[RolloutKey, float]) -> dict[str, float]:
        return {}


@dataclass(frozen=True, kw_only=True)
class KeepAllConfig:
    """No group filter."""

    name: str

    def build(self) -> "KeepAll":
        return KeepAll()


class KeepAll:
    """Keeps all but what can have no advantage: a single member, and a rollout without a response token."""

    def keep(self, group: Group, advantages: Mapping[RolloutKey, float]) -> tuple[Rollout, ...]:
        return _kept([wave for wave in _waves(group) if len(wave) > 1])

    def metrics(self, kept: Mapping[RolloutKey, float]) -> dict[str, float]:
        return {}


FILTERS: dict[str, type] = {
    "drop_flat": DropFlatConfig,
    "keep_all": KeepAllConfig,
    "keep_rules": KeepRulesConfig,
}


def _waves(group: Group) -> list[tuple[Rollout, ...]]:
    return [group.wave(wave) for wave in sorted({rollout.key.wave for rollout in group.rollouts})]


def _kept(waves: Sequence[Sequence[Rollout]]) -> tuple[Rollout, ...]:
    rollouts = [rollout for wave in waves for rollout in wave if rollout.num_response_tokens]
    return tuple(sorted(rollouts, key=lambda rollout: rollout.key))
