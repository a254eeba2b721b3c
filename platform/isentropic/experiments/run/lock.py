"""One run at a time in a folder: a lock that the kernel takes back when its holder dies, however it dies."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

LOCK = ".run.lock"  # in the run folder; holds who has it


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; makes it where it is not there, and takes away what it made if it stays empty.

    Raises:
        ValueError: another process holds it (who, since when), or the folder cannot be made.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ValueError(
            f"run.dir={folder} cannot be written: {error.strerror}. Choose another run.dir."
        ) from error
    try:
        _take(descriptor, folder)
        _write(descriptor, _self())
        yield
        _write(descriptor, {})  # the end was an orderly one
    finally:
        if made and [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            for path in made:
                with suppress(OSError):  # another run has come into it
                    path.rmdir()
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(_held(folder, _read(descriptor))) from error
    except OSError as error:  # a file system without locks: believe what the file says
        owner = _read(descriptor)
        if owner and _lives(owner):
            raise ValueError(
                f"{_held(folder, owner)} If that process is gone for certain, remove {folder / LOCK}."
            ) from error


def _held(folder: Path, owner: dict[str, Any]) -> str:
    who = (
        "host {host}, pid {pid}, since {started}".format(**owner)
        if owner
        else "a process that did not say its name"
    )
    return (
        f"{folder} is in use by another run ({who}). Two runs in one folder would spoil both: wait for it or stop it, "
        "then go on with resume=auto; or start another with run.name=<another>."
    )


def _self() -> dict[str, Any]:
    started = psutil.Process().create_time()
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "create_time": started,
    }


def _lives(owner: dict[str, Any]) -> bool:
    """False where the owner was a process of this machine that has ended; of another machine nothing is known."""
    if owner["host"] != socket.gethostname():
        return True
    try:
        return abs(psutil.Process(owner["pid"]).create_time() - owner["create_time"]) < 1.0
    except psutil.NoSuchProcess:
        return False


def _read(descriptor: int) -> dict[str, Any]:
    """The owner, or nothing where none is written or the text is damaged."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    wanted = {"host", "pid", "started", "create_time"}
    return owner if isinstance(owner, dict) and wanted <= owner.keys() else {}


def _write(descriptor: int, owner: dict[str, Any]) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(owner).encode(), 0)
