"""The run's side of the reward workers: starts them, sends them checks, ends those that hang.

It reads only JSON from them.
"""

import asyncio
import json
import logging
import os
import pickle
import secrets
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


class OpenWall(RewardError, ValueError):
    """What an answer wrote may run, and the wall that should hold it has an opening."""

    def __init__(self, task: Task, opening: str) -> None:
        why = getattr(task, "evaluator", "") or "its task says so"
        super().__init__(
            f"{getattr(task, 'place', '') or type(task).__name__}: the reward may run what an answer "
            f"wrote ({why}), and {opening}. If nothing in it evaluates an answer, write "
            "`<function>.runs_code = False` behind the function (in a class of a task: runs_code = "
            "False). To run all the same: rewards.accept_gaps=true."
        )


def spare_cpus(cpus: int | None = None) -> int:
    """How many checks a node can make at a time, if the rest of its CPUs go to the run itself.

    Half of them, and 2 at least: one check that hangs must not hold up all.

    cpus: of the node; None: those that this process may use.
    """
    return max(2, (len(os.sched_getaffinity(0)) if cpus is None else cpus) // 2)


class WorkerPool:
    """Walled processes that check answers.

    They start on the first check; one that hangs or dies is replaced. A task that says that it
    `runs_code` of answers gets a new one for each check: what an answer changes ends with it. If
    the wall has an opening it is refused.
    """

    def __init__(
        self,
        task: Task,
        *,
        memory_gib: float,
        timeout_s: float,
        say: Callable[[str], None],
        workers: int | None = None,
        network: bool = False,
        accept_gaps: bool = False,
    ) -> None:
        """
        Args:
            say: is called once, with what the workers are walled off by.
            workers: how many checks to make at a time; None: `spare_cpus` of this node.

        Raises:
            OpenWall: code of an answer could use the network, which `accept_gaps` alone allows.
        """
        self.lanes = workers or spare_cpus()
        self._task = task
        self._memory_gib = memory_gib
        self._timeout_s = timeout_s
        self._network = network
        self._reuse = not getattr(task, "runs_code", False)
        self._accepts_gaps = self._reuse or accept_gaps
        if network and not self._accepts_gaps:
            raise OpenWall(task, "with rewards.network=true that could send what it sees anywhere")
        self._say = say
        self._server: _Server | None = None
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()  # the server answers one request at a time
        self.wall: Wall | None = None  # of the workers; None before the first one

    async def check(self, batch: Sequence[Item], timeout_s: float) -> list[Outcome]:
        """Returns the batch's outcomes.

        If the batch does not come back, all its items have the same kind of error. A single answer
        whose worker went is checked again by a new one: the worker may have gone with its server.
        Who sends more of them at once sends those of a lost batch again one by one.
        """
        for attempt in range(2 if len(batch) == 1 else 1):
            worker = None if attempt else self._idle_one()
            worker = worker or await asyncio.to_thread(self._start)
            try:
                return await self._asked(worker, batch, timeout_s)
            except TimeoutError:
                return [TIMED_OUT] * len(batch)
            except OSError:  # the worker is gone
                continue
            except (ValueError, RecursionError):  # it sent no answer
                break
        return [CRASHED] * len(batch)

    async def start(self) -> Wall:
        """Starts a first worker, and returns the wall around it. Raises RewardError if it cannot."""
        worker = await asyncio.to_thread(self._start)
        self._idle.append(worker)
        return worker.wall

    def close(self) -> None:
        """Ends the workers, hung ones too."""
        for worker in self._idle:
            worker.socket.close()
        self._idle.clear()
        with self._lock:
            self._close_server()

    def _idle_one(self) -> "_Worker | None":
        """Returns a worker that waits for a request; ends those that do not."""
        while self._idle:
            worker = self._idle.pop()
            if worker.waits():
                return worker
            self._end(worker)
        return None

    async def _asked(
        self, worker: "_Worker", batch: Sequence[Item], timeout_s: float
    ) -> list[Outcome]:
        """Has a worker check a batch, and keeps it if it answered."""
        keep = False
        try:
            async with asyncio.timeout(timeout_s):
                outcomes = await worker.ask(batch)
            keep = self._reuse
            return outcomes
        finally:
            if keep:
                self._idle.append(worker)
            else:
                self._end(worker)

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
        if worker.wall.gaps and not self._accepts_gaps:
            self._end(worker)
            raise OpenWall(self._task, f"on this machine that could {', '.join(worker.wall.gaps)}")
        return worker

    def _end(self, worker: "_Worker") -> None:
        worker.socket.close()
        with self._lock:
            # A server that is gone took its workers with it, and the next one knows none of them.
            if worker.server is self._server:
                try:
                    self._server.ask(server.END + str(worker.number).encode())
                except OSError:
                    self._close_server()

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

    server: "_Server"
    number: int  # its process id, as that server sees it
    socket: socket.socket
    wall: Wall

    def waits(self) -> bool:
        """Returns whether it is alive, and has written nothing that it was not asked for."""
        try:
            self.socket.recv(1, socket.MSG_PEEK)  # nothing: it is gone
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    async def ask(self, batch: Sequence[Item]) -> list[Outcome]:
        """Has the worker check a batch.

        Raises:
            OSError: the worker is gone.
            ValueError, RecursionError: it wrote something that is not an answer.
        """
        loop = asyncio.get_running_loop()
        # Not to be guessed: no answer can write ahead what later ones are paid.
        number = secrets.token_hex(8)
        await loop.sock_sendall(self.socket, pickle.dumps((number, list(batch))))
        line = b""
        while not line.endswith(b"\n"):
            part = await loop.sock_recv(self.socket, ANSWER)
            if not part:
                raise ConnectionError
            line += part
            if len(line) > ANSWER:
                raise ValueError
        return _outcomes(json.loads(line), number, len(batch))


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
        return _Worker(self, number, ours, Wall(values["missing"], tuple(values["gaps"])))

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


def _outcomes(reply: object, number: str, count: int) -> list[Outcome]:
    """Returns a worker's answer to request `number`.

    Raises ValueError unless it lists rewards and known errors.
    """
    if not isinstance(reply, dict) or reply.keys() != {"number", "outcomes"}:
        raise ValueError
    values = reply["outcomes"]
    if reply["number"] != number or not isinstance(values, list) or len(values) != count:
        raise ValueError
    return [from_json(value) for value in values]


def _environment() -> dict[str, str]:
    """Makes the server's environment: a few harmless names, this tree's code, one thread."""
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**kept, **threads, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
