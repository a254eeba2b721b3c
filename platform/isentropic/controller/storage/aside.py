"""What a run that goes back leaves behind it, out of the way of what it makes anew.

set_aside/1/                    the first time; 2/, 3/, ... the next ones
  checkpoints/step_000060/      of steps behind the start, until the run has saved that step again
  rollouts/step_000041.parquet  and other files of steps, if they are to be drawn again

Left in place, such checkpoints would count as the newest: each new one would be removed for them,
and a later resume would go on from the past of another run.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from isentropic.controller.storage import checkpoints
from isentropic.controller.storage.carried import CARRIED
from isentropic.controller.storage.ledger import FOLDERS, ledger_path, recorded_steps
from isentropic.durable import sync_folder

ASIDE = "set_aside"
CHECKPOINTS = "checkpoints"
DRAWN = (FOLDERS["train"], CARRIED)
TRAINED = ("trained", "attribution", FOLDERS["eval"])


def set_checkpoints_aside(run: Path, after: int) -> list[int]:
    """Moves the checkpoints of later steps than `after`, whole or not; returns their steps."""
    later = {s: path for s, path in checkpoints.listed(run / CHECKPOINTS).items() if s > after}
    _move(run, {path: f"{CHECKPOINTS}/{path.name}" for path in later.values()})
    return list(later)


def set_steps_aside(run: Path, *, trained: int, drawn: int) -> list[int]:
    """Moves the files of steps that are drawn again; returns those steps.

    Args:
        trained: the last step whose training stays.
        drawn: the last one whose rollouts stay.
    """
    last = dict.fromkeys(DRAWN, drawn) | dict.fromkeys(TRAINED, trained)
    moved = {
        ledger_path(run / folder, step): f"{folder}/{ledger_path(run, step).name}"
        for folder in last
        for step in recorded_steps(run / folder)
        if step > last[folder]
    }
    steps = [step for step in recorded_steps(run / DRAWN[0]) if step > drawn]
    _move(run, moved)
    return steps


def drop_reached(run: Path, step: int) -> None:
    """Removes checkpoints that were set aside, up to the step that the run has saved by now."""
    for folder in run.glob(f"{ASIDE}/*/{CHECKPOINTS}"):
        for saved, path in checkpoints.listed(folder).items():
            if saved <= step:
                shutil.rmtree(path, ignore_errors=True)


def _move(run: Path, moved: Mapping[Path, str]) -> None:
    if not moved:
        return
    numbers = [int(path.name) for path in run.glob(f"{ASIDE}/*") if path.name.isdecimal()]
    place = run / ASIDE / str(max(numbers, default=0) + 1)
    for path, name in moved.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        path.rename(place / name)
    for folder in {path.parent for path in moved}:
        sync_folder(folder)
