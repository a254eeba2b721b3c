"""How long drawing takes with `rollout.segment_tokens`, from the lengths of answers alone.

It follows the rules of `controller/drawing/flight.py`: a phase writes segment after segment until its
step has enough whole prompts, and whoever is finished before leaves a slot empty until the next
phase begins new prompts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from isentropic.controller.drawing.flight import Flight, Rules


@dataclass(slots=True)
class Answers:
    """What is missing of one prompt's answers; as far as the rules look, a `Group`."""

    begun_in: int
    left: np.ndarray  # tokens of each
    ended_in: int = 0
    rollouts: bool = True

    @property
    def is_finished(self) -> bool:
        return not self.left.any()

    def write(self, segment: int | None, step: int) -> np.ndarray:
        """Writes a segment of each answer; what each wrote."""
        written = self.left if segment is None else np.minimum(self.left, segment)
        self.left = self.left - written
        self.ended_in = step
        return written


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Of some steps together."""

    tokens: int  # written
    lasted: float  # tokens that a slot could have written meanwhile

    def idle(self, slots: int) -> float:
        """Share of the slots without work."""
        return 1 - self.tokens / (self.lasted * slots)


def whole(*, per_step: int) -> Rules:
    """The rules of drawing without segments: each step writes its own prompts to their end."""
    return Rules(per_step=per_step, in_flight=per_step, max_lag=0, delay=0)


def go_through(
    lengths: Iterable[int],
    rules: Rules,
    *,
    group_size: int,
    segment: int | None,
    slots: int,
    steps: int,
    skipped: int = 0,
) -> Drawing:
    """Draws steps of answers of these lengths, in the order of prompts.

    Args:
        segment: tokens; None: whole answers.
        slots: answers that the engines write at once. A round lasts as long as its longest segment,
            or until all slots together have written its tokens.
        skipped: steps at the beginning that are not counted.
    """
    fresh = iter(lengths)
    groups: dict[int, Any] = {}
    next_draw = tokens = 0
    lasted = 0.0
    for step in range(1, steps + 1):
        begun = rules.begins(Flight(groups=tuple(groups.values()), next_draw=next_draw))
        next_draw = begun.stop
        for draw in begun:
            left = np.array([next(fresh) for _ in range(group_size)])
            groups[draw] = Answers(begun_in=step, left=left)
        due = rules.due(groups, step, next_draw)
        writing = [draw for draw, group in groups.items() if not group.is_finished]
        while writing:
            written = np.concatenate([groups[draw].write(segment, step) for draw in writing])
            if step > skipped:
                tokens += int(written.sum())
                lasted += max(float(written.max()), float(written.sum()) / slots)
            writing = rules.write_on(groups, due)
        done = [draw for draw, group in groups.items() if group.is_finished]
        done.sort(key=lambda draw: (draw not in due, groups[draw].ended_in, draw))
        for draw in done[: rules.per_step]:
            del groups[draw]
    return Drawing(tokens=tokens, lasted=lasted)
