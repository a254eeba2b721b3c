"""Files that are there whole or not at all, also after a crash or a loss of power."""

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict, TypeVar

T = TypeVar("T")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
WAITS_S = (0.1, 0.3, 1.0, 3.0)  # before each new attempt on a full disk


class FileEntry(TypedDict):
    """What a file was when it was whole."""

    bytes: int
    sha256: str


def file_entry(path: Path) -> FileEntry:
    """Reads the file and returns its size and hash."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


@contextmanager
def replace_durably(path: Path) -> Iterator[Path]:
    """Yields a temporary path; what is written there becomes `path`, on success only."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)  # of a process that died; in a stranger's folder, a link
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


def append_durably(path: Path, line: bytes) -> None:
    """Appends a line whole or not at all: the next one would go on in what a full disk took."""
    with path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(before)
            raise


def when_there_is_room(write: Callable[[], T]) -> T:
    """Calls `write`, and again after a while if the disk is full.

    A checkpoint that filled the disk is removed meanwhile. Call this in a thread: it sleeps. Raises
    the last OSError.
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
    """Forces the file's bytes to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Forces the folder's names to disk: without it a loss of power may undo a rename."""
    sync_file(path)
