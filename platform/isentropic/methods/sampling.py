"""Sampling plans: how many prompts a step draws, and whether it draws again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from isentropic.checks import check_range
from isentropic.methods.filters import is_flat
from isentropic.methods.slots import Wave
from isentropic.methods.uec_rl.second_wave import SecondWaveConfig
from isentropic.records import Group


@dataclass(frozen=True, kw_only=True)
class OneWaveConfig:
    """The values are those of `rollout`."""

    name: str
    prompts_per_step: int
    group_size: int
    temperature: float
    top_p: float
    top_k: int

    def __post_init__(self) -> None:
        check_range("rollout.prompts_per_step", self.prompts_per_step, at_least=1)

    def build(self) -> "OneWave":
        return OneWave(self)

    def wave(self, prompts: int) -> Wave:
        """A wave of so many new prompts."""
        return Wave(
            new_prompts=prompts,
            group_size=self.group_size,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
        )


class OneWave:
    """Draws `prompts_per_step` prompts once. Has no state."""

    max_groups: int | None = None  # all of them go on

    def __init__(self, config: OneWaveConfig) -> None:
        self._config = config

    def next_wave(self, groups: Sequence[Group]) -> Wave | None:
        return None if groups else self._config.wave(self._config.prompts_per_step)

    def metrics(self, groups: Sequence[Group]) -> dict[str, float]:
        return {}


@dataclass(frozen=True, kw_only=True)
class RefilledConfig(OneWaveConfig):
    """DAPO's dynamic sampling (arXiv:2503.14476), with a bounded number of draws."""

    draw_prompts: int  # new prompts a draw
    max_draws: int  # 1: drawn once, then cut, as CE-GPPO's authors do

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("sampling.draw_prompts", self.draw_prompts, at_least=1)
        check_range("sampling.max_draws", self.max_draws, at_least=1)
        if self.draw_prompts * self.max_draws < self.prompts_per_step:
            raise ValueError(
                f"sampling.draw_prompts={self.draw_prompts} times sampling.max_draws={self.max_draws} is less than "
                f"rollout.prompts_per_step={self.prompts_per_step}: the batch can never be full. Raise either."
            )

    def build(self) -> "Refilled":
        return Refilled(self)


class Refilled:
    """Draws until `prompts_per_step` groups are not flat in task rewards, or the draws are used up. Has no state."""

    def __init__(self, config: RefilledConfig) -> None:
        self._config = config
        self.max_groups: int | None = (
            config.prompts_per_step
        )  # what is left over is cut, in the order of the draws

    def next_wave(self, groups: Sequence[Group]) -> Wave | None:
        config = self._config
        teaching = sum(not is_flat(group.wave(0), "reward") for group in groups)
        if (
            teaching >= config.prompts_per_step
            or len(groups) >= config.draw_prompts * config.max_draws
        ):
            return None
        return config.wave(config.draw_prompts)

    def metrics(self, groups: Sequence[Group]) -> dict[str, float]:
        return {}


SAMPLINGS: dict[str, type] = {
    "one_wave": OneWaveConfig,
    "refilled": RefilledConfig,
    "second_wave": SecondWaveConfig,
}


def check_refilled(sampling: Any, filter_: Any) -> None:
    """Refilling counts what the filter will drop, so both must judge by the task's reward.

    Args:
        sampling, filter_: the chosen configs.

    Raises:
        ValueError: refilled with another filter than drop_flat on the task's reward.
    """
    if sampling.name == "refilled" and (filter_.name, getattr(filter_, "on", None)) != (
        "drop_flat",
        "reward",
    ):
        raise ValueError(
            f"sampling=refilled with filter={filter_.name}: it draws until enough groups differ in the task's reward, "
            "and another filter drops others. Set filter=drop_flat filter.on=reward, or sampling=one_wave."
        )
