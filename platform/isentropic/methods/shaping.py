"""Shaping: makes the reward that advantages are made of; the task's own is never overwritten."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from isentropic.checks import check_range
from isentropic.records import Group, Rollout, RolloutKey, TokenScores


@dataclass(frozen=True, kw_only=True)
class WithoutTeachers:
    """Base of a shaping that only writes rewards: it exchanges no rollout and has no state."""

    name: str
    fates: ClassVar[tuple[str, ...]] = ()

    def build(self) -> Self:
        return self

    def bind(self, *, chat: Any, task: Any, model_path: str) -> None:
        pass

    def candidates(self, groups: Sequence[Group]) -> list[Rollout]:
        return []

    def adjust(
        self, groups: Sequence[Group], advantages: Mapping[RolloutKey, float]
    ) -> tuple[dict[RolloutKey, float], dict[str, float]]:
        return dict(advantages), {}


@dataclass(frozen=True, kw_only=True)
class NoShaping(WithoutTeachers):
    """Leaves the task's reward as it is."""

    def shape(
        self,
        groups: Sequence[Group],
        scores: Mapping[RolloutKey, TokenScores],
        teachers: Sequence[Rollout] = (),
    ) -> tuple[list[Group], dict[str, float]]:
        rewards = [[rollout.reward for rollout in group.rollouts] for group in groups]
        return [_shaped(group, values) for group, values in zip(groups, rewards, strict=True)], {}


@dataclass(frozen=True, kw_only=True)
class Overlong(WithoutTeachers):
    """Adds a penalty for length: DAPO's soft overlong punishment (arXiv:2503.14476).

    It is 0 up to L - b tokens, then falls linearly to -f at L, and never goes below. L bounds a turn,
    so of an episode of several turns the longest counts.
    """

    max_response_tokens: int  # L, the limit on a turn of a response
    buffer_share: float  # b / L, the last part of the limit, over which the penalty grows
    factor: float  # f, the penalty at the limit, in reward units

    def __post_init__(self) -> None:
        check_range("shaping.max_response_tokens", self.max_response_tokens, at_least=1)
        check_range(
            "shaping.buffer_share",
            self.buffer_share,
            above=0,
            at_most=1,
            hint="A share of the limit.",
        )
        check_range("shaping.factor", self.factor, at_least=0)

    def penalty(self, tokens: int) -> float:
        """The penalty of a turn of so many tokens, in reward units, in [-f, 0]."""
        buffer = self.buffer_share * self.max_response_tokens
        over = tokens - (self.max_response_tokens - buffer)
        return -self.factor * min(max(over / buffer, 0.0), 1.0)

    def shape(
        self,
        groups: Sequence[Group],
        scores: Mapping[RolloutKey, TokenScores],
        teachers: Sequence[Rollout] = (),
    ) -> tuple[list[Group], dict[str, float]]:
        shaped, penalties = [], []
        for group in groups:
            added = [self.penalty(_longest_turn(rollout)) for rollout in group.rollouts]
            rewards = [
                rollout.reward + penalty
                for rollout, penalty in zip(group.rollouts, added, strict=True)
            ]
            shaped.append(_shaped(group, rewards))
            penalties += added
        count = max(len(penalties), 1)
        return shaped, {
            "overlong/penalty_mean": sum(penalties) / count,
            "overlong/penalised_frac": sum(penalty < 0 for penalty in penalties) / count,
        }


def _longest_turn(rollout: Rollout) -> int:
    return max((end - start for start, end in rollout.turns), default=0)


def _shaped(group: Group, rewards: Sequence[float]) -> Group:
    pairs = zip(group.rollouts, rewards, strict=True)
    return replace(
        group, rollouts=tuple(replace(rollout, shaped_reward=reward) for rollout, reward in pairs)
    )
