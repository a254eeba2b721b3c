"""What a path names: a run, a folder of runs (a sweep), or neither."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from isentropic.checks import nearest
from isentropic.folders import runs_folder
from isentropic.metrics.report.reading import is_file

RUN_FILES = ("metrics.jsonl", "config.yaml")
DEPTH = 3  # folders that a sweep may put between itself and its runs
EXPECTED = (
    "Give a run folder (with metrics.jsonl or config.yaml, as jobs/train.py writes it), the name "
    "of a run under runs/, or a sweep's or branch's folder with run folders in it."
)


def is_run(folder: Path) -> bool:
    return any(is_file(folder / name) for name in RUN_FILES)


def find_run(name: str) -> Path:
    """Returns a path as given, else the run or sweep of that name in the folder of runs.

    Raises ValueError if there is neither.
    """
    root = runs_folder()
    # At home the folder of runs is called runs/, and users write it in front of a name.
    for path in (Path(name), root / name, root / name.removeprefix("runs/")):
        if os.path.isdir(path):  # False also for a name that no folder can have
            return path
    raise ValueError(
        f"{name}: no such folder, nor {root / name}.{nearest(name, _names(root))} "
        f"{EXPECTED}{_runs_here(root)}"
    )


def runs_under(paths: Sequence[Path]) -> list[Path]:
    """Returns the run folders that `paths` are or hold, each once.

    Raises ValueError for a path that is not a run and contains none, or that cannot be read.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        runs = [path] if is_run(path) else list(_below(path, DEPTH))
        if not runs:
            raise ValueError(f"{path} is not a run folder and contains none. {EXPECTED}")
        folders |= {run.resolve(): None for run in runs}
    return list(folders)


def _below(folder: Path, depth: int) -> Iterable[Path]:
    if depth == 0 or not os.path.isdir(folder):
        return
    try:
        children = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be read: {error.strerror}. Give yourself access to it, or name the "
            "run folders themselves."
        ) from error
    for child in children:
        if not os.path.isdir(child):
            continue
        if is_run(child):
            yield child
        else:
            yield from _below(child, depth - 1)


def _runs_here(root: Path) -> str:
    """Returns a sentence that names some runs."""
    try:
        names = [name for name in _names(root) if is_run(root / name)]
    except ValueError:
        names = []
    more = ", ..." if len(names) > 8 else ""
    return f" Runs here: {', '.join(names[:8])}{more}." if names else ""


def _names(root: Path) -> list[str]:
    """Returns the names of all folders here; a folder that cannot be read has none to offer."""
    try:
        return sorted(path.name for path in root.iterdir() if path.is_dir())
    except OSError:
        return []
