"""What a path names: a run, a folder of runs (a sweep), or neither."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from isentropic.folders import runs_folder

RUN_FILES = ("metrics.jsonl", "config.yaml")
DEPTH = 3  # folders that a sweep may put between itself and its runs
EXPECTED = (
    "Give a run folder (with metrics.jsonl or config.yaml, as jobs/train.py writes it), the name "
    "of a run under runs/, or a sweep's or branch's folder with run folders in it."
)


def is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in RUN_FILES)


def find_run(name: str) -> Path:
    """Return a path as given, else the run or sweep of that name in the folder of runs.

    Raises ValueError if there is neither.
    """
    root = runs_folder()
    # runs/<name>: as a run is called where ISENTROPIC_RUNS is not set
    for path in (Path(name), root / name, root / name.removeprefix("runs/")):
        if path.is_dir():
            return path
    known = sorted(path.name for path in root.iterdir() if is_run(path)) if root.is_dir() else []
    there = (
        f" Runs here: {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}." if known else ""
    )
    raise ValueError(f"{name}: no such folder, nor {root / name}. {EXPECTED}{there}")


def runs_under(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders that `paths` are or hold, each once.

    Raises ValueError for a path that is no run folder and contains none.
    """
    found: dict[Path, None] = {}
    for path in paths:
        runs = [path] if is_run(path) else list(_below(path, DEPTH))
        if not runs:
            raise ValueError(f"{path} is not a run folder and contains none. {EXPECTED}")
        found |= {run.resolve(): None for run in runs}
    return list(found)


def _below(folder: Path, depth: int) -> Iterable[Path]:
    if depth == 0 or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        children = sorted(
            Path(entry.path) for entry in entries if entry.is_dir() and entry.name[0] != "."
        )
    for child in children:
        if is_run(child):
            yield child
        else:
            yield from _below(child, depth - 1)
