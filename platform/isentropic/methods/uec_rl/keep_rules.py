"""The filter of UEC-RL (arXiv:2604.14646): thresholds on the advantage for each wave, and the overlong filter.

    first wave     |A| > regular                               drops groups that are all right or all wrong
    later waves    released: |A| > explore                     [source: the authors' code]
                   positive: A > 0 and |A| > explore           [reconstructed]: the paper's rule, as noted, is A > 0
    overlong       drop what fills the response limit and has A > 0

`released` keeps only the wrong answers of an explored group once 11 of 20 are right; `positive` never does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from isentropic.checks import check_choice, check_range
from isentropic.records import Group, Rollout, RolloutKey

KEEP = ("positive", "released")
NEARLY_ZERO = 1e-6  # a flat group's advantages may miss 0 by rounding; with threshold 0 they must still be dropped


@dataclass(frozen=True, kw_only=True)
class KeepRulesConfig:
    """Values live in conf/method/uec_rl.yaml under `uec`."""

    name: str
    keep: str  # positive | released
    keep_regular: float  # threshold on |A| in the first wave
    keep_explore: float  # in later waves
    overlong_filter: bool

    def __post_init__(self) -> None:
        check_choice("uec.keep", self.keep, KEEP)
        check_range("uec.keep_regular", self.keep_regular, at_least=0)
        check_range("uec.keep_explore", self.keep_explore, at_least=0)

    def build(self) -> "KeepRules":
        return KeepRules(self)


class KeepRules:
    """The filter slot. Judges on task rewards: what shaping added to them, or to the group, changes no verdict."""

    def __init__(self, config: KeepRulesConfig) -> None:
        self._config = config

    def keep(self, group: Group, advantages: Mapping[RolloutKey, float]) -> tuple[Rollout, ...]:
        """See `slots.Filter`. A teacher is judged by its advantage in the hybrid group ([reconstructed])."""
        verdicts = {**advantages, **_task_advantages(group)}
        kept = [
            rollout for rollout in group.rollouts if self._keeps(rollout, verdicts[rollout.key])
        ]
        return tuple(sorted(kept, key=lambda rollout: rollout.key))

    def metrics(self, kept: Mapping[RolloutKey, float]) -> dict[str, float]:
        return keep_metrics(kept)

    def _keeps(self, rollout: Rollout, advantage: float) -> bool:
        config, explored = self._config, rollout.key.wave > 0
        threshold = config.keep_explore if explored else config.keep_regular
        if not abs(advantage) > max(threshold, NEARLY_ZERO):
            return False
        if explored and config.keep == "positive" and advantage < 0:
            return False
        return not (config.overlong_filter and rollout.finish_reason == "length" and advantage > 0)


def _task_advantages(group: Group) -> dict[RolloutKey, float]:
    """(R - mean) / (std + 1e-6), std with ddof 1, over the policy's rollouts of each wave that shaping touched.

    Thresholds are made for this form ([source: code]). A wave whose rewards are the task's keeps the advantages that
    the method gave it.
    """
    out: dict[RolloutKey, float] = {}
    for wave in sorted({rollout.key.wave for rollout in group.rollouts}):
        members = group.wave(wave)
        touched = any(
            r.is_teacher or abs(r.shaped_reward - r.reward) > 0 for r in members
        )  # NaN: never shaped
        online = [rollout for rollout in members if not rollout.is_teacher]
        if not touched or len(online) < 2:
            continue
        rewards = np.array([rollout.reward for rollout in online])
        scaled = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
        out |= {rollout.key: float(value) for rollout, value in zip(online, scaled, strict=True)}
    return out


def keep_metrics(kept: Mapping[RolloutKey, float]) -> dict[str, float]:
    """Kept rollouts per class (spec C.8): first or later wave, right or wrong way, from key -> advantage."""
    counts = dict.fromkeys(
        ("regular_positive", "regular_negative", "explore_positive", "explore_negative"), 0.0
    )
    for key, advantage in kept.items():
        wave, sign = (
            "explore" if key.wave > 0 else "regular",
            "positive" if advantage > 0 else "negative",
        )
        counts[f"{wave}_{sign}"] += 1
    return {f"uec/kept_{name}": count for name, count in counts.items()}
