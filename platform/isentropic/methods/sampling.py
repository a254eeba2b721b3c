"""Sampling plans: how many prompts a step draws, and whether it draws again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from isentropic.checks import check_range
from isentropic.config import check_temperature
from isentropic.methods.filters import is_flat
from isentropic.methods.slots import Wave
from isentropic.records import Group


@dataclass(frozen=True, kw_only=True)
class OneWave:
    """Draws `prompts_per_step` prompts once. The values are those of `rollout`."""

    name: str
    prompts_per_step: int
    group_size: int
    temperature: float
    top_p: float
    top_k: int
    max_groups: ClassVar[int | None] = None  # all of them go on

    def __post_init__(self) -> None:
        check_range("rollout.prompts_per_step", self.prompts_per_step, at_least=1)
        check_temperature("sampling.temperature", self.temperature)

    def next_wave(self, groups: Sequence[Group]) -> Wave | None:
        return None if groups else self.first_wave(self.prompts_per_step)

    def metrics(self, groups: Sequence[Group]) -> dict[str, float]:
        return {}

    def first_wave(self, prompts: int) -> Wave:
        """A wave of so many new prompts."""
        return Wave(
            new_prompts=prompts,
            group_size=self.group_size,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
        )


@dataclass(frozen=True, kw_only=True)
class Refilled(OneWave):
    """Draws until `prompts_per_step` groups are not flat in task rewards, or the draws are used up.

    This is DAPO's dynamic sampling (arXiv:2503.14476), with a bounded number of draws.
    """

    draw_prompts: int  # new prompts per draw
    max_draws: int  # 1: drawn once, then cut, as CE-GPPO's authors do

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("sampling.draw_prompts", self.draw_prompts, at_least=1)
        check_range("sampling.max_draws", self.max_draws, at_least=1)
        if self.draw_prompts * self.max_draws < self.prompts_per_step:
            raise ValueError(
                f"sampling.draw_prompts={self.draw_prompts} times "
                f"sampling.max_draws={self.max_draws} is less than "
                f"rollout.prompts_per_step={self.prompts_per_step}: the batch can never be full. "
                "Raise either."
            )

    @property
    def max_groups(self) -> int | None:
        """What is left over is cut, in the order of the draws."""
        return self.prompts_per_step

    def next_wave(self, groups: Sequence[Group]) -> Wave | None:
        differing = sum(not is_flat(group.wave(0), "reward") for group in groups)
        drawn_out = len(groups) >= self.draw_prompts * self.max_draws
        if differing >= self.prompts_per_step or drawn_out:
            return None
        return self.first_wave(self.draw_prompts)
