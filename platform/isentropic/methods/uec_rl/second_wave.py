"""The sampling plan of UEC-RL (arXiv:2604.14646): more, hotter samples for prompts nobody solved.

[source: code] A prompt is hard if all G rewards of the first wave are 0, which there means that no
answer was right; it gets G' further samples at temperature t'. Statistics of the two waves are
never mixed, and all samples are scored at the training temperature: there is no importance
correction from t' to 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from isentropic.checks import check_range
from isentropic.config import check_temperature
from isentropic.methods.sampling import OneWave
from isentropic.methods.slots import Wave
from isentropic.records import Group


def is_hard(group: Group) -> bool:
    """Whether nobody of the first wave was right; partial credit is not right."""
    return not any(rollout.is_right for rollout in group.wave(0))


@dataclass(frozen=True, kw_only=True)
class SecondWave(OneWave):
    """Draws a second wave for the hard prompts of the first.

    Values live in conf/method/uec_rl.yaml under `uec`; the first wave's are those of `rollout`.
    """

    explore_size: int  # G'; 0 is one wave, the base method
    explore_temperature: float  # t'

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("uec.explore_size", self.explore_size, at_least=0)
        check_temperature("uec.explore_temperature", self.explore_temperature)
        if self.explore_size == 1:
            raise ValueError(
                "uec.explore_size=1: advantages are taken inside the second wave, and one sample "
                "minus its own mean is always 0. Set it to 2 or more, or to 0 for no second wave."
            )

    def next_wave(self, groups: Sequence[Group]) -> Wave | None:
        if not groups:
            return self.first_wave(self.prompts_per_step)
        explored = any(group.wave(1) for group in groups)
        hard = tuple(group.draw for group in groups if is_hard(group))
        if explored or not hard or self.explore_size == 0:
            return None
        return Wave(
            draws=hard,
            group_size=self.explore_size,
            temperature=self.explore_temperature,
            top_p=self.top_p,
            top_k=self.top_k,
        )

    def metrics(self, groups: Sequence[Group]) -> dict[str, float]:
        return wave_metrics(groups)


def wave_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Hard prompts of a step and what the second wave made of them, in task rewards, under uec/."""
    drawn = [group for group in groups if group.wave(0)]
    hard = [group for group in drawn if is_hard(group)]
    extra = [rollout for group in hard for rollout in group.rollouts if rollout.key.wave > 0]
    metrics = {
        "uec/hard_prompts": float(len(hard)),
        "uec/hard_frac": len(hard) / max(len(drawn), 1),
        "uec/explored": float(len(extra)),
    }
    if extra:
        count = len(extra)
        solved = [any(r.is_right for r in group.rollouts if r.key.wave > 0) for group in hard]
        tokens = sum(rollout.num_response_tokens for rollout in extra)
        truncated = sum(rollout.finish_reason == "length" for rollout in extra)
        metrics |= {
            "uec/explore_solved_frac": sum(solved) / len(hard),
            "uec/explore_reward_mean": sum(rollout.reward for rollout in extra) / count,
            "uec/explore_tokens_mean": tokens / count,
            "uec/explore_truncated_frac": truncated / count,
        }
    return metrics
