"""The process that reward workers are forked from.

It has already made their imports, so that a new worker costs milliseconds. It never sees what a
model wrote. It starts with an almost empty environment, takes the task once, from its standard
input, and then obeys two commands on a socket: fork a worker around the handle that comes with the
command, and end a worker.
"""

import importlib
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from tempfile import TemporaryDirectory

from isentropic.tasks.grading import wall
from isentropic.tasks.grading.worker import serve

READY, START, END = b"ready", b"start", b"end "
MESSAGE = 65536  # bytes at most


def main() -> None:
    """Serves until the run closes its end of the socket or dies."""
    control = socket.socket(fileno=int(sys.argv[1]))
    with TemporaryDirectory(prefix="isentropic-checks-") as folder:
        # The working folder of the workers, which must be empty.
        os.chdir(folder)
        os.environ["MPLCONFIGDIR"] = folder
        try:
            modules, task, memory_gib, timeout_s, network = pickle.load(sys.stdin.buffer)
            for name in modules:
                importlib.import_module(name)
            task = pickle.loads(task)
            if hasattr(task, "enter_server"):
                task.enter_server()  # what it must not do again in each worker
            wall.prepare()
        except Exception:  # raised by the task's own code: the run shows it to its user
            control.send(traceback.format_exc()[-MESSAGE:].encode())
            return
        control.send(READY)
        obey(
            control,
            partial(serve, task, memory_gib=memory_gib, timeout_s=timeout_s, network=network),
        )
        os.chdir("/")


def obey(control: socket.socket, work: Callable[[int], None]) -> None:
    """Starts and ends workers on command; ends the rest when the run closes the socket."""
    workers: set[int] = set()
    while True:
        try:
            command, handles, _, _ = socket.recv_fds(control, MESSAGE, 1)
        except ConnectionError:
            command = b""
        if not command:
            break
        if command == START:
            workers.add(worker := fork(handles[0], work))
            control.send(str(worker).encode())
        else:
            worker = int(command.removeprefix(END))
            if worker in workers:  # by now the number of another's may be a stranger's process
                end(worker)
                workers.discard(worker)
            control.send(command)
    for worker in workers:
        end(worker)


def fork(handle: int, work: Callable[[int], None]) -> int:
    """Forks a worker that answers on `handle`; returns its process id."""
    worker = os.fork()
    if worker == 0:
        # Whatever happens, the worker must not go on with this process's own code.
        try:
            work(handle)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(handle)
    return worker


def end(worker: int) -> None:
    """Kills a worker and waits for its end."""
    # The process id cannot have passed to another process: only this one waits for it.
    with suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)


if __name__ == "__main__":
    main()
