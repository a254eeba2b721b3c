"""The run's side of the reward workers: starts them, sends them checks, ends those that hang.

It reads only JSON from them.
"""

import asyncio
import json
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from isentropic.tasks.base import Task
from isentropic.tasks.grading import server
from isentropic.tasks.grading.outcome import CRASHED, TIMED_OUT, Outcome, from_json
from isentropic.tasks.grading.wall import Wall
from isentropic.tasks.grading.worker import Item

ANSWER = 2**20  # bytes of one answer, at most
START_S = 120.0  # for the server's imports on a busy machine
# The only variables of the run that a check can see: how text is read, which libraries are loaded.
ENVIRONMENT = (
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "PYTHONHASHSEED",
    "LD_LIBRARY_PATH",
    "OPENBLAS_CORETYPE",
)

log = logging.getLogger(__name__)


class RewardError(RuntimeError):
    """No check can be made, or so many in a row failed that the task itself must be wrong."""


def spare_cpus() -> int:
    """How many checks this node can make at a time, if the rest of its CPUs go to the run itself.

    Half of what this process may use, and 2 at least: one check that hangs must not hold up all.
    """
    return max(2, len(os.sched_getaffinity(0)) // 2)


class WorkerPool:
    """Walled processes that check answers.

    They start on the first check; one that hangs or dies is replaced.
    """

    def __init__(
        self,
        task: Task,
        *,
        memory_gib: float,
        timeout_s: float,
        say: Callable[[str], None],
        network: bool = False,
    ) -> None:
        self._task = task
        self._memory_gib = memory_gib
        self._timeout_s = timeout_s
        self._network = network
        self._say = say  # is called once, with what the workers are walled off by
        self._server: _Server | None = None
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()  # the server answers one request at a time
        self.wall: Wall | None = None  # of the workers; None before the first one

    async def check(self, batch: Sequence[Item], timeout_s: float) -> list[Outcome]:
        """Returns the batch's outcomes.

        If the batch does not come back, all its items have the same kind of error.
        """
        worker = self._idle.pop() if self._idle else await asyncio.to_thread(self._start)
        error = CRASHED
        try:
            async with asyncio.timeout(timeout_s):
                outcomes = await worker.ask(batch)
            self._idle.append(worker)
            return outcomes
        except TimeoutError:
            error = TIMED_OUT
        except (OSError, ValueError, RecursionError):  # the worker is gone, or sent no answer
            pass
        finally:
            if worker not in self._idle:
                self._end(worker)
        return [error] * len(batch)

    def close(self) -> None:
        """Ends the workers, hung ones too."""
        for worker in self._idle:
            worker.socket.close()
        self._idle.clear()
        with self._lock:
            self._close_server()

    def _start(self) -> "_Worker":
        with self._lock:
            try:
                worker = self._server_started().start_worker()
            except OSError:  # the server was killed, perhaps for lack of memory
                self._close_server()
                worker = self._server_started().start_worker()
        if self.wall is None:
            self.wall = worker.wall
            self._say(f"reward checks are {self.wall}")
            if self.wall.gaps:
                log.warning("reward checks are %s", self.wall)
        return worker

    def _end(self, worker: "_Worker") -> None:
        worker.socket.close()
        with self._lock, suppress(OSError):  # a server that is gone took its workers with it
            if self._server is not None:
                self._server.ask(server.END + str(worker.number).encode())

    def _server_started(self) -> "_Server":
        if self._server is None:
            self._server = _Server(self._task, self._memory_gib, self._timeout_s, self._network)
        return self._server

    def _close_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


@dataclass(eq=False)
class _Worker:
    """One walled process and the socket to it."""

    number: int  # its process id, as the server sees it
    socket: socket.socket
    wall: Wall

    async def ask(self, batch: Sequence[Item]) -> list[Outcome]:
        """Has the worker check a batch.

        Raises:
            OSError: the worker is gone.
            ValueError, RecursionError: it wrote something that is not an answer.
        """
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.socket, pickle.dumps(list(batch)))
        line = b""
        while not line.endswith(b"\n"):
            part = await loop.sock_recv(self.socket, ANSWER)
            if not part:
                raise ConnectionError
            line += part
            if len(line) > ANSWER:
                raise ValueError
        return _outcomes(json.loads(line), len(batch))


class _Server:
    """The process that workers are forked from, and the socket that requests them."""

    def __init__(self, task: Task, memory_gib: float, timeout_s: float, network: bool) -> None:
        modules = [type(task).__module__, *getattr(task, "preload", ())]
        setup = pickle.dumps((modules, pickle.dumps(task), memory_gib, timeout_s, network))
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(START_S)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", server.__name__, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env=_environment(),
                # Ctrl-C must reach only the run, which ends its workers itself.
                start_new_session=True,
            )
        with suppress(BrokenPipeError), self._process.stdin as stream:
            stream.write(setup)
        try:
            answer = self._receive()
        except OSError as error:
            self.close()
            raise RewardError(
                f"the server of the reward workers did not start: {error!r}. "
                "Is the machine short of memory or processes?"
            ) from error
        if answer != server.READY:
            self.close()
            raise RewardError(f"the task cannot be loaded in a reward worker:\n{answer.decode()}")

    def start_worker(self) -> _Worker:
        """Has a worker forked, and waits until it stands behind its wall."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [server.START], [theirs.fileno()])
            number = int(self._receive())
        ours.settimeout(START_S)
        with ours.makefile("rb") as stream:
            greeting = stream.readline(ANSWER)
        if not greeting:
            raise ConnectionError("a reward worker died before its first check")
        values = json.loads(greeting)
        ours.setblocking(False)
        return _Worker(number, ours, Wall(values["missing"], tuple(values["gaps"])))

    def ask(self, message: bytes) -> bytes:
        """Sends a request and returns the server's answer."""
        self._control.send(message)
        return self._receive()

    def close(self) -> None:
        """Closes the socket, on which the server ends its workers and itself."""
        self._control.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _receive(self) -> bytes:
        """Receives an answer; raises OSError if the server is gone or does not answer in time."""
        answer = self._control.recv(server.MESSAGE)
        if not answer:
            raise ConnectionError("the server of the reward workers has ended")
        return answer


def _outcomes(values: object, count: int) -> list[Outcome]:
    """Returns a worker's answer; raises ValueError unless it lists rewards and known errors."""
    if not isinstance(values, list) or len(values) != count:
        raise ValueError
    return [from_json(value) for value in values]


def _environment() -> dict[str, str]:
    """Makes the server's environment: a few harmless names, this tree's code, one thread."""
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**kept, **threads, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
