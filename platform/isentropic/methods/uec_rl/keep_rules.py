"""The filter of UEC-RL (arXiv:2604.14646): thresholds on the advantage per wave, overlong filter.

    first wave     |A| > regular                         drops groups all right or all wrong
    later waves    released: |A| > explore               [source: code]
                   positive: A > 0 and |A| > explore     [reconstructed] the paper's rule: A > 0
    overlong       drops what fills the response limit and has A > 0

`released` keeps only the wrong answers of an explored group once 11 of 20 are right; `positive`
never does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from isentropic.checks import check_choice, check_range
from isentropic.methods.filters import answered, is_flat, waves
from isentropic.records import Group, Rollout, RolloutKey

KEEP = ("positive", "released")
# A flat group's advantages may miss 0 by rounding; a threshold of 0 must still drop them.
NEARLY_ZERO = 1e-6


@dataclass(frozen=True, kw_only=True)
class KeepRules:
    """Judges on task rewards: what shaping added to them, or to the group, changes no verdict.

    Values live in conf/method/uec_rl.yaml under `uec`.
    """

    name: str
    keep: str  # positive | released
    keep_regular: float  # threshold on |A| in the first wave
    keep_explore: float  # in later waves
    overlong_filter: bool
    fates: ClassVar[tuple[str, ...]] = (
        "single",
        "flat",
        "below_threshold",
        "wrong_sign",
        "overlong",
        "no_response",
    )

    def __post_init__(self) -> None:
        check_choice("uec.keep", self.keep, KEEP)
        check_range("uec.keep_regular", self.keep_regular, at_least=0)
        check_range("uec.keep_explore", self.keep_explore, at_least=0)

    def judge(self, group: Group, advantages: Mapping[RolloutKey, float]) -> dict[RolloutKey, str]:
        """Judges a teacher by its advantage in the hybrid group ([reconstructed])."""
        judged_by = {**advantages, **_task_advantages(group)}
        fates = {}
        for wave in waves(group):
            policy = [rollout for rollout in wave if not rollout.is_teacher]
            flat = is_flat(policy if len(policy) > 1 else wave, "reward")
            weak = "single" if len(wave) == 1 else "flat" if flat else "below_threshold"
            fates |= {r.key: self._fate(r, judged_by[r.key], weak) for r in wave}
        return fates

    def metrics(self, kept: Mapping[RolloutKey, float]) -> dict[str, float]:
        return keep_metrics(kept)

    def _fate(self, rollout: Rollout, advantage: float, weak: str) -> str:
        """`weak` is the fate of one whose advantage does not exceed the threshold."""
        explored = rollout.key.wave > 0
        threshold = self.keep_explore if explored else self.keep_regular
        if not abs(advantage) > max(threshold, NEARLY_ZERO):
            return weak
        if explored and self.keep == "positive" and advantage < 0:
            return "wrong_sign"
        if self.overlong_filter and rollout.finish_reason == "length" and advantage > 0:
            return "overlong"
        return answered(rollout)


def _task_advantages(group: Group) -> dict[RolloutKey, float]:
    """Normalised task rewards of the policy's rollouts, for each wave that shaping touched.

    (R - mean) / (std + 1e-6), std with ddof 1: thresholds are made for this form ([source: code]).
    A wave whose rewards are the task's keeps the advantages that the method gave it.
    """
    out: dict[RolloutKey, float] = {}
    for wave in waves(group):
        # A shaped reward that is not a number was never shaped: the comparison is false for it.
        touched = any(r.is_teacher or abs(r.shaped_reward - r.reward) > 0 for r in wave)
        policy = [rollout for rollout in wave if not rollout.is_teacher]
        if not touched or len(policy) < 2:
            continue
        rewards = np.array([rollout.reward for rollout in policy])
        scaled = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
        out |= {rollout.key: float(value) for rollout, value in zip(policy, scaled, strict=True)}
    return out


def keep_metrics(kept: Mapping[RolloutKey, float]) -> dict[str, float]:
    """Kept rollouts per class, from key -> advantage: first or later wave, pushed up or down."""
    counts = dict.fromkeys(
        ("regular_positive", "regular_negative", "explore_positive", "explore_negative"), 0.0
    )
    for key, advantage in kept.items():
        wave = "explore" if key.wave > 0 else "regular"
        sign = "positive" if advantage > 0 else "negative"
        counts[f"{wave}_{sign}"] += 1
    return {f"uec/kept_{name}": count for name, count in counts.items()}
