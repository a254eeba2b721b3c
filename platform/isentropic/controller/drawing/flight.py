"""Prompts in flight (`rollout.segment_tokens`): who writes on, who is trained on, who is carried.

Each step has one phase. At its start new prompts are begun until `prompts_in_flight` of them are
being written or wait to be trained on. Then every rollout that is not finished writes a segment, and
the phase ends as soon as the step has its `prompts_per_step` finished groups; if it has not, all
write another segment. The step takes the groups that were finished first (of one phase, those drawn
first). What is left is carried: it goes on in the next phase, under the next weights.

No prompt may be left behind for long. A step takes those first that are due, and its phase goes on
until they are finished. Due are prompts

- that are `delay` steps late: had prompts been trained on in the order they are drawn in, they would
  have been part of a step so long ago. At most `prompts_per_step` prompts come to this in one step,
  so a step always has room for them, and none is ever older than `max_lag`;
- that a later step would have no room for before they are older than `max_lag`. There are such only
  if a resume has changed the numbers: what was begun under others may be more than a step takes.

All of this is a function of tokens: no clock and no engine decides anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from isentropic.config import RolloutConfig
from isentropic.records import Group, Rollout

Groups = dict[int, Group]  # by draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """What a step leaves to the next: its groups, in the order of draws, some of them finished."""

    groups: tuple[Group, ...] = ()
    next_draw: int = 0

    @property
    def rollouts(self) -> list[Rollout]:
        return [rollout for group in self.groups for rollout in group.rollouts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules above, with the numbers of a run."""

    per_step: int
    in_flight: int
    max_lag: int
    delay: int

    @classmethod
    def of(cls, config: RolloutConfig) -> "Rules":
        """From `prompts_in_flight` and `max_lag`."""
        return cls(
            per_step=config.prompts_per_step,
            in_flight=config.in_flight,
            max_lag=config.max_lag,
            delay=config.max_lag - fewest_steps(config),
        )

    def begins(self, flight: Flight) -> range:
        """The draws that a phase begins."""
        new = max(0, self.in_flight - len(flight.groups))
        return range(flight.next_draw, flight.next_draw + new)

    def due(self, groups: Mapping[int, Group], step: int, next_draw: int) -> list[int]:
        """The draws that this step must train on.

        Args:
            groups: all that are in flight, those too that this step begins.
            next_draw: the one that the next step begins with.
        """
        draws = sorted(groups)
        # How many were trained on, and not steps times per_step: that may have been another number.
        trained = next_draw - len(draws)
        late = sum(draw < trained + self.per_step * (1 - self.delay) for draw in draws)
        begun = (groups[draw].begun_in if groups[draw].rollouts else step for draw in draws)
        # Steps after this one that may still take it.
        spare = (max(0, first + self.max_lag - step) for first in begun)
        crowded = [count - self.per_step * more for count, more in enumerate(spare, start=1)]
        return draws[: min(max(late, *crowded, 0), self.per_step)]

    def write_on(self, groups: Mapping[int, Group], due: Sequence[int]) -> list[int]:
        """The draws that need another segment before the phase can end."""
        unfinished = [draw for draw, group in groups.items() if not group.is_finished]
        if len(groups) - len(unfinished) < self.per_step:
            return unfinished
        return [draw for draw in unfinished if draw in due]

    def take(self, groups: Mapping[int, Group], due: Sequence[int], step: int) -> tuple[Group, ...]:
        """The groups that the step trains on, as it takes them."""
        finished = {draw: finished_in(group) for draw, group in groups.items() if group.is_finished}
        order = sorted(finished, key=lambda draw: (draw not in due, finished[draw], draw))
        return tuple(_for_step(groups[draw], step) for draw in order[: self.per_step])


def fewest_steps(config: RolloutConfig) -> int:
    """Steps that a prompt is carried through on average: a smaller `max_lag` cannot be held."""
    return -(-config.in_flight // config.prompts_per_step) - 1


def finished_in(group: Group) -> int:
    """The step in whose phase the last of a finished group's rollouts ended."""
    return max(rollout.segments[-1].step for rollout in group.rollouts)


def left_over(flight: Flight) -> str:
    """Says what a run that ends leaves in flight; "" if that is nothing."""
    rollouts = flight.rollouts
    if not rollouts:
        return ""
    written = [rollout for rollout in rollouts if not rollout.is_finished]
    tokens = sum(rollout.num_response_tokens for rollout in rollouts)
    return (
        f"{len(flight.groups)} prompts were in flight when the run ended: {len(written)} of their "
        f"{len(rollouts)} rollouts are not finished, {tokens} tokens were trained on by no step. "
        "A longer run (run.steps) goes on with them."
    )


def _for_step(group: Group, step: int) -> Group:
    return replace(group, rollouts=tuple(replace(each, step=step) for each in group.rollouts))
