"""Where a run can go on: the newest whole checkpoint up to which the run's record has no gap.

A resume keeps the lines up to its checkpoint and appends after them. If one of them were torn,
missing or doubled, the gap would stay in the curve for good. Going back to a checkpoint before the
gap closes it: the ledger has what was drawn, and a step drawn again has the same seeds.

Read whole are the files of the checkpoint that the run goes on from, and the ledger files behind
it, whose steps are trained again. Of the ledger files up to the checkpoint only the ends are read,
which a file that was cut short has lost: nothing is computed from them again, and they may be a
terabyte.
"""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from isentropic.controller.storage import checkpoints
from isentropic.controller.storage.carried import CARRIED, read_flight
from isentropic.controller.storage.checkpoints import Manifest
from isentropic.controller.storage.ledger import ledger_path, read_batch
from isentropic.metrics.sinks.jsonl import read_lines
from isentropic.tasks.progress import announced

LEDGER = "rollouts"
TRAINED = "trained"


def resume_point(
    folder: Path,
    *,
    ahead: int,
    last: int,
    warn: Callable[[str], None],
    vocab_size: int | None = None,
    in_segments: bool = False,
    drawn_again: bool = False,
) -> tuple[Path, Manifest] | None:
    """Returns the checkpoint to go on from; None means the start of the run.

    Args:
        folder: of the run.
        ahead: steps that are drawn before they are trained (`rollout.max_staleness`). A checkpoint
            needs their ledger files too, because the weights they were drawn from are gone. It may
            say itself how many they were when it was made.
        last: the run's last step; nothing is drawn beyond it.
        warn: gets one sentence for each checkpoint that is skipped.
        vocab_size: tokens of the model, a bound of those in the ledger; None is no bound.
        in_segments: the steps behind the checkpoint need what the ones before them left in flight.
        drawn_again: steps behind the checkpoint that can be drawn again will be; they are not read.

    Raises:
        LedgerError: a ledger file behind the checkpoint is damaged or holds what no run draws.
    """
    gaps = None
    for step, checkpoint in reversed(checkpoints.listed(folder / "checkpoints").items()):
        try:
            manifest = checkpoints.verify(checkpoint)
        except checkpoints.CheckpointError as error:
            warn(f"{error} Going back to the checkpoint before it.")
            continue
        gaps = gaps or _gaps(folder)
        drawn = min(drawn_by((checkpoint, manifest), ahead=ahead), last)
        lacking = [
            _lacks(path, gap)
            for path, gap in gaps.items()
            if gap <= (drawn if path.name == LEDGER else step)
        ]
        if in_segments:
            # Nobody reads those of before the checkpoint.
            gap = _first_absent(folder / CARRIED, first=step)
            lacking += [_lacks(folder / CARRIED, gap)] if gap <= max(step, drawn) else []
        if not lacking:
            _check_behind(
                folder, step, drawn if drawn_again else last, vocab_size, warn, in_segments
            )
            return checkpoint, manifest
        warn(
            f"{'; '.join(lacking)}. Going back to the checkpoint before step {step}: the steps "
            "behind it are trained again from the ledger, to the same bits."
        )
    _check_behind(folder, 0, 0 if drawn_again else last, vocab_size, warn, in_segments)
    return None


def drawn_by(start: tuple[Path, Manifest] | None, *, ahead: int) -> int:
    """Returns the last step whose rollouts are older than the start, 0 at the beginning.

    Args:
        ahead: `rollout.max_staleness`, if the checkpoint does not say what it was.
    """
    if start is None:
        return 0
    manifest = start[1]
    rollout = manifest.about.get("config", {}).get("rollout", {})
    return manifest.step + int(rollout.get("max_staleness", ahead))


def _check_behind(
    folder: Path,
    step: int,
    last: int,
    vocab_size: int | None,
    warn: Callable[[str], None],
    in_segments: bool,
) -> None:
    """Reads what was drawn for the steps behind `step`, up to `last`."""
    _check_drawn(folder / LEDGER, range(step + 1, last + 1), vocab_size, warn)
    if in_segments:
        _check_carried(folder / CARRIED, range(max(step, 1), last + 1), vocab_size)


def _check_drawn(
    ledger: Path, steps: range, vocab_size: int | None, warn: Callable[[str], None]
) -> None:
    """Reads those of the steps that were drawn, as the run will read them to train them again.

    Without it a flipped bit would stop the run only when it comes to that step, perhaps hours after
    engines and ranks have started.
    """
    drawn = [step for step in steps if ledger_path(ledger, step).exists()]
    for step in announced(drawn, f"checking the steps drawn in {ledger}", warn):
        read_batch(ledger, step, vocab_size=vocab_size)


def _check_carried(folder: Path, steps: range, vocab_size: int | None) -> None:
    """Reads what the steps left in flight, for the same reason."""
    for step in steps:
        read_flight(folder, step, vocab_size=vocab_size)


def _gaps(folder: Path) -> dict[Path, int]:
    """Returns the first step that each part of the record lacks."""
    metrics = folder / "metrics.jsonl"
    updates = folder / "updates.jsonl"
    lines, _ = read_lines(metrics)
    whole = lines[: _first_gap(lines)]
    counts = {row["step"]: _count(row) for row in whole}
    return {
        metrics: _first_gap(lines),
        updates: _first_gap_of_updates(read_lines(updates)[0], counts),
        **{folder / name: _first_absent(folder / name) for name in (LEDGER, TRAINED)},
    }


def _lacks(path: Path, step: int) -> str:
    return f"{path} lacks step {step}, or has it damaged or twice"


def _first_gap(lines: list) -> int:
    """Returns the first step of 0, 1, 2, ... that is not on its own line."""
    for expected, row in enumerate(lines):
        if not isinstance(row, dict) or row.get("step") != expected:
            return expected
    return len(lines)


def _first_gap_of_updates(lines: list, counts: dict[int, int]) -> int:
    """Returns the first step whose updates are not 0, 1, ... in order, as many as `counts` says."""
    made = [
        (row.get("step"), row.get("update")) if isinstance(row, dict) else None for row in lines
    ]
    place = 0
    for step in sorted(counts):
        expected = [(step, update) for update in range(counts[step])]
        if made[place : place + len(expected)] != expected:
            return step
        place += len(expected)
        # One more line of the same step is a duplicate; lines of later steps are cut off anyway.
        if place < len(made) and (made[place] is None or made[place][0] == step):
            return step
    return max(counts, default=0) + 1


def _count(row: dict) -> int:
    """Returns how many updates a line of metrics.jsonl reports; line 0 has none."""
    updates = row.get("update/count", 0)
    return updates if isinstance(updates, int) else 0


def _first_absent(folder: Path, first: int = 1) -> int:
    """Returns the first step, from `first` on, without a whole parquet file."""
    return next(step for step in count(first) if not _is_whole(folder / f"step_{step:06d}.parquet"))


def _is_whole(path: Path) -> bool:
    # Reads only the end of the file: one that was cut short has lost it.
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return False
    return True
