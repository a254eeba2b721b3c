"""Locks a run folder; the kernel takes the lock back when its holder dies, however it dies."""

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


GO_ON = "go on with resume=auto; or start another with run.name=<another>"


def is_only_locked(folder: Path) -> bool:
    """Returns True for a folder without files but hidden ones, such as the lock."""
    return folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())


@contextmanager
def run_lock(folder: Path, then: str = GO_ON) -> Iterator[None]:
    """Holds the folder for this process.

    Makes it if it is missing, and removes what it made if that stays empty.

    Args:
        then: what whoever finds it held does, once it is free.

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
        _take(descriptor, folder, then)
        _write(descriptor, _self())
        yield
        # Says that the end was an orderly one.
        _write(descriptor, {})
    finally:
        if made and [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            for path in made:
                with suppress(OSError):  # another run has come into it
                    path.rmdir()
        os.close(descriptor)


def _take(descriptor: int, folder: Path, then: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(_held(folder, _read(descriptor), then)) from error
    except OSError as error:  # a file system without locks: believe what the file says
        owner = _read(descriptor)
        if owner and _lives(owner):
            raise ValueError(
                f"{_held(folder, owner, then)} If that process is gone for certain, remove "
                f"{folder / LOCK}."
            ) from error


def _held(folder: Path, owner: dict[str, Any], then: str) -> str:
    who = (
        "host {host}, pid {pid}, since {started}".format(**owner)
        if owner
        else "a process that did not say its name"
    )
    return (
        f"{folder} is in use by another run ({who}). Two in one folder would spoil both: wait for it "
        f"or stop it, then {then}."
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
    """Returns False if the owner was a process of this machine, and has ended."""
    # Nothing is known about the processes of another machine.
    if owner["host"] != socket.gethostname():
        return True
    try:
        return abs(psutil.Process(owner["pid"]).create_time() - owner["create_time"]) < 1.0
    except psutil.NoSuchProcess:
        return False


def _read(descriptor: int) -> dict[str, Any]:
    """Returns the owner, or nothing if none is written or the text is damaged."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    needed = {"host", "pid", "started", "create_time"}
    return owner if isinstance(owner, dict) and needed <= owner.keys() else {}


def _write(descriptor: int, owner: dict[str, Any]) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(owner).encode(), 0)
