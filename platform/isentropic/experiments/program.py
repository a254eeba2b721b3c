"""What all commands share: exit codes, and the one place where errors become messages and codes."""

import asyncio
import logging
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from isentropic.checks import refuse_secrets
from isentropic.controller.protocols import NotStarted
from isentropic.durable import NO_ROOM
from isentropic.experiments.settings.conf import take_config_dirs
from isentropic.experiments.settings.options import HELP, Commands, Options
from isentropic.experiments.started import as_started
from isentropic.folders import runs_folder, unset_empty, use_durable_folders

PACKAGE = Path(__file__).resolve().parents[1]

DONE = 0
FAULT = 1
BAD_INPUT = 2
STOPPED_BY_ALARM = 3
RESUMABLE = 75
INTERRUPTED = 130

CLOCK = "%H:%M:%S"

Job = Callable[[dict[str, Any], list[str]], int | None]


def program(job: Job, options: Options | Commands, *, go_on: str = "") -> Callable[..., int]:
    """Make `job(options, overrides)` a program: a function of the command line.

    The function returns the exit code.

    go_on: how to go on after Ctrl-C, for the reader of the terminal.
    """

    def main(arguments: Sequence[str] | None = None) -> int:
        given = list(sys.argv[1:] if arguments is None else arguments)
        if set(given) & set(HELP) or (not given and options.takes_something):
            print(as_started(options.help()))
            return DONE if given else BAD_INPUT
        begin()

        def run() -> int | None:
            refuse_secrets(given)
            return job(*options.parse(take_config_dirs(given)))

        return exit_code(run, go_on=go_on)

    return main


def begin() -> None:
    """Prepare the process: its folders, its log, and SIGTERM as an end that can be resumed.

    The log is stderr: warnings of our own code and of libraries, with the time of day.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt=CLOCK)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(RESUMABLE))
    unset_empty()
    use_durable_folders()


def exit_code(job: Callable[[], int | None], *, go_on: str = "", folder: Path | None = None) -> int:
    """Run the job and return its exit code (None is 0), or that of the error that it ended with.

    A ValueError of our own code is bad input (2), a ConnectionError of our own code is a fault
    without a traceback (1), a NotStarted may be tried again (75); each is one line, `error: ...`.
    Any other error is a fault and keeps its traceback. If Ray's head has gone, the process ends
    here, with that code.

    folder: where the job writes (default: the folder of all runs), for the message about a full
        disk.
    """
    try:
        code = _code_of(job, go_on, folder)
    except SystemExit as end:
        # Ray's own handler, which is there while Ray starts, exits with the signal's number.
        code = RESUMABLE if end.code == signal.SIGTERM else end.code
        _leave_lost_ray(code)
        raise SystemExit(code) from end
    _leave_lost_ray(code)
    return code


def _leave_lost_ray(code: int) -> None:
    """End the process with `code` if its Ray has lost the head: the usual exit would hang."""
    # Only who has loaded that module can have started a Ray; others need not wait for its import.
    runtime = sys.modules.get("isentropic.actors.ray_runtime")
    if runtime is not None:
        runtime.leave_lost_ray(code)


def _code_of(job: Callable[[], int | None], go_on: str, folder: Path | None) -> int:
    """Run the job; print what it ended with, and return the code of that."""
    try:
        return job() or DONE
    except (KeyboardInterrupt, asyncio.CancelledError):
        print(f"interrupted{'; ' if go_on else ''}{go_on}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, NotStarted):
            refuse(str(error))
            return RESUMABLE
        if isinstance(error, ValueError | ConnectionError) and is_ours(error):
            code = refuse(str(error))
            return code if isinstance(error, ValueError) else FAULT
        traceback.print_exc()
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            print(_full(folder or runs_folder()), file=sys.stderr)
        return FAULT


def refuse(message: str) -> int:
    """Say what the user gave that cannot be run, and return the exit code."""
    print(f"error: {as_started(message)}", file=sys.stderr)
    return BAD_INPUT


def is_ours(error: BaseException) -> bool:
    """Return True if this package's own code raised the exception, not a library that it called."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).resolve().is_relative_to(PACKAGE)


def _full(folder: Path) -> str:
    """Return what to do about a full disk."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = {
        str(folder): shutil.disk_usage(existing).free / 2**20,
        tempfile.gettempdir(): shutil.disk_usage(tempfile.gettempdir()).free / 2**20,
    }
    places = ", ".join(f"{mib:.0f} MiB are free in {place}" for place, mib in free.items())
    return (
        f"a disk is full: {places}. Make room; what the run has written is whole, and resume=auto "
        "goes on with it."
    )
