"""Files that are there whole or not at all, also after a crash or a loss of power."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
WAITS_S = (0.1, 0.3, 1.0, 3.0)  # for room


@contextmanager
def replace_durably(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what was written there becomes `path` on success, and only then."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_durably(path: Path, text: str) -> None:
    """Writes a small text file whole or not at all."""
    with replace_durably(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def when_there_is_room(write: Callable[[], T]) -> T:
    """write(), again after a while where the disk is full: a checkpoint that filled it is being removed.

    To be called in a thread. Raises the last OSError.
    """
    for seconds in WAITS_S:
        try:
            return write()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            time.sleep(seconds)
    return write()


def sync_file(path: Path) -> None:
    """Hands the file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Hands the folder's names to the disk: without it a rename may be lost with the power."""
    sync_file(path)
