"""The prompts that a step leaves in flight, on disk before the step trains.

They lie in files of the ledger's form, one per step, in a folder beside the ledger. A step's file
here is written before its file there: if the ledger has a step, the next one can be drawn. Nothing
else reads them, and a run that goes on after step N none of before N.
"""

from dataclasses import replace
from pathlib import Path

from isentropic.controller.drawing.flight import Flight
from isentropic.controller.storage.ledger import Batch, read_batch, write_batch

CARRIED = "carried"


def write_flight(folder: Path, flight: Flight, batch: Batch) -> Path:
    """Writes what the step of `batch` leaves in flight, durably."""
    # Errors of its rewards are counted in the step's own file.
    left = replace(batch, groups=flight.groups, teachers=(), reward_errors=0)
    return write_batch(folder, left, {})


def read_flight(folder: Path, step: int, *, vocab_size: int | None = None) -> Flight | None:
    """Returns what `step` left in flight, bit for bit; None if there is no such file.

    Raises LedgerError if the file is damaged, holds what no run draws, or is another step's.
    """
    batch = read_batch(folder, step, vocab_size=vocab_size, unfinished=True)
    return None if batch is None else Flight(groups=batch.groups, next_draw=batch.next_draw)


def follows(before: Flight, batch: Batch, left: Flight) -> bool:
    """Returns True if a step took or left each prompt that was in flight or that it began, once.

    A step that is drawn again may take others than the first time: on a GPU the bits are others.
    What comes from the ledger behind it would then train on some prompts twice, on others never.
    """
    there = [group.draw for group in before.groups]
    there += range(before.next_draw, left.next_draw)
    return sorted(group.draw for group in (*batch.groups, *left.groups)) == there
