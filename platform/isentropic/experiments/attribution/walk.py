"""Which recorded steps are trained again, and from which checkpoints, to reach the steps asked for."""

import re
from dataclasses import dataclass
from functools import cache

from isentropic.controller.storage import checkpoints
from isentropic.experiments.run.recorded import CHECKPOINTS, RecordedRun


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps that are trained one after the other, from one checkpoint or from the start."""

    start: int  # the state after this step; 0: before any update
    last: int

    @property
    def steps(self) -> range:
        return range(self.start + 1, self.last + 1)

    def __str__(self) -> str:
        place = f"the checkpoint of step {self.start}" if self.start else "the start"
        return f"steps {self.start + 1} to {self.last} from {place}"


def asked_steps(text: str, run: RecordedRun) -> list[int]:
    """Returns the steps that `steps=` means, in rising order.

    Raises ValueError if it cannot be read, or names a step that the run did not record.
    """
    parts = [re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part) for part in text.split(",")]
    if not all(parts):
        raise ValueError(f"steps={text!r} cannot be read. Write steps and ranges: 10,20-24.")
    spans = [(int(part[1]), int(part[2] or part[1])) for part in parts if part]
    has = f"{run.folder} recorded steps {run.steps[0]} to {run.steps[-1]}"
    for first, last in spans:
        if first > last:
            raise ValueError(f"steps={text}: the range {first}-{last} runs backwards.")
        if first < run.steps[0] or last > run.steps[-1]:
            raise ValueError(f"steps={text}: {has}. Choose from those.")
    steps = sorted({step for first, last in spans for step in range(first, last + 1)})
    if absent := sorted(set(steps) - set(run.steps)):
        raise ValueError(f"steps={text}: {has}, but not step {absent[0]}.")
    return steps


def plan(run: RecordedRun, steps: list[int]) -> list[Stretch]:
    """Plans the shortest way over checkpoints to all steps, which rise.

    Raises ValueError if a step between was not recorded.
    """
    listed = list(checkpoints.listed(run.folder / CHECKPOINTS))

    @cache
    def whole(saved: int) -> int:
        """The step of the last whole checkpoint up to a listed one; 0 if there is none."""
        found = run.checkpoint_before(saved)
        return found[1].step if found else 0

    stretches: list[Stretch] = []
    for step in steps:
        start = whole(max((saved for saved in listed if saved < step), default=0))
        if stretches and start <= stretches[-1].last:
            stretches[-1] = Stretch(stretches[-1].start, step)
        else:
            stretches.append(Stretch(start, step))
    recorded = set(run.steps)
    for stretch in stretches:
        if absent := [step for step in stretch.steps if step not in recorded]:
            raise ValueError(
                f"{run.folder} recorded no step {absent[0]}, which must be trained again to reach "
                f"step {stretch.last} (no whole checkpoint lies between)."
            )
    return stretches
