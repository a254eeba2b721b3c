"""Shaping: from the task's reward to the one that advantages are made of. The task's own is never overwritten."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from isentropic.checks import check_range
from isentropic.methods.oger.exploration import ExplorationConfig
from isentropic.records import Group, Rollout, RolloutKey, TokenScores


@dataclass(frozen=True, kw_only=True)
class NoShapingConfig:
    """The shaped reward is the task's."""

    name: str

    def build(self) -> "NoShaping":
        return NoShaping()


class _NoTeachers:
    """A shaping that exchanges nothing."""

    def bind(self, *, chat: Any, task: Any, model_path: str) -> None:
        pass

    def candidates(self, groups: Sequence[Group]) -> list[Rollout]:
        return []

    def adjust(
        self, groups: Sequence[Group], advantages: Mapping[RolloutKey, float]
    ) -> tuple[dict[RolloutKey, float], dict[str, float]]:
        return dict(advantages), {}


class NoShaping(_NoTeachers):
    """The base method."""

    def shape(
        self,
        groups: Sequence[Group],
        scores: Mapping[RolloutKey, TokenScores],
        teachers: Sequence[Rollout] = (),
    ) -> tuple[list[Group], dict[str, float]]:
        return [
            _shaped(group, [rollout.reward for rollout in group.rollouts]) for group in groups
        ], {}


@dataclass(frozen=True, kw_only=True)
class OverlongConfig:
    """DAPO's soft overlong penalty (arXiv:2503.14476)."""

    name: str
    max_response_tokens: int  # L, the limit on a response
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

    def build(self) -> "Overlong":
        return Overlong(self)


class Overlong(_NoTeachers):
    """Adds a penalty for length: 0 up to L - b tokens, then linearly down to -f at L, never below."""

    def __init__(self, config: OverlongConfig) -> None:
        self._config = config

    def penalty(self, tokens: int) -> float:
        """In reward units, in [-f, 0]."""
        config = self._config
        buffer = config.buffer_share * config.max_response_tokens
        over = tokens - (config.max_response_tokens - buffer)
        return -config.factor * min(max(over / buffer, 0.0), 1.0)

    def shape(
        self,
        groups: Sequence[Group],
        scores: Mapping[RolloutKey, TokenScores],
        teachers: Sequence[Rollout] = (),
    ) -> tuple[list[Group], dict[str, float]]:
        penalties = [
            [self.penalty(rollout.num_response_tokens) for rollout in group.rollouts]
            for group in groups
        ]
        shaped = [
            _shaped(
                group,
                [
                    rollout.reward + penalty
                    for rollout, penalty in zip(group.rollouts, own, strict=True)
                ],
            )
            for group, own in zip(groups, penalties, strict=True)
        ]
        every = [penalty for own in penalties for penalty in own]
        count = max(len(every), 1)
        return shaped, {
            "overlong/penalty_mean": sum(every) / count,
            "overlong/penalised_frac": sum(penalty < 0 for penalty in every) / count,
        }


def _shaped(group: Group, rewards: Sequence[float]) -> Group:
    pairs = zip(group.rollouts, rewards, strict=True)
    return replace(
        group, rollouts=tuple(replace(rollout, shaped_reward=reward) for rollout, reward in pairs)
    )


SHAPINGS: dict[str, type] = {
    "none": NoShapingConfig,
    "overlong": OverlongConfig,
    "exploration": ExplorationConfig,
}
