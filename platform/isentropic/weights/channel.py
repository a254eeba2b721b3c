"""Sends bytes from the learner's rank 0 to all processes of some engines: one round, one group.

The processes meet at a key-value store that rank 0 keeps. What is small (layout, checksums, the word
that a round is off) goes through the store; the bytes go through a process group of torch: gloo
between CPUs, NCCL between GPUs. A round reaches all of its group or is broken for all of it: whoever
fails says so in the store, where everyone who waits looks.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from isentropic.weights.parcels import Layout, Parcel

POLL_S = 0.05  # between two looks for the word that a round is off
MEET_S = 60.0  # for processes that all have arrived to connect to each other


class RoundBroken(RuntimeError):
    """A round ended before its last parcel: someone died, hung or refused. It can be tried again."""


@dataclass(frozen=True, slots=True)
class Round:
    """One transfer of published weights to the processes of some engines.

    Args:
        serial: of the publication.
        group: names the connections: processes that took part in the last round of the same group
            have them already. No two groups at one store have the same name.
        backend: gloo, nccl, or ipc: lent by the ranks on the engines' devices (`weights.lending`).
        size: of the group: the senders, which come first, and every process of the engines.
        senders: rank 0 of the learner, or all ranks if they lend.
    """

    number: int
    serial: int
    policy_version: int
    host: str
    port: int
    backend: str  # gloo | nccl | ipc
    group: str
    size: int
    timeout_s: float
    senders: int = 1


class Line:
    """What the processes of one round tell each other, besides the weights.

    Every call raises RoundBroken once the round is off, the store is gone or the time is up.
    """

    def __init__(self, meeting: Round, store: dist.Store | None = None) -> None:
        """
        Args:
            store: of rank 0, which keeps it; the others connect to it.
        """
        self.round = meeting
        self._deadline = time.monotonic() + meeting.timeout_s
        self._looked = 0.0
        self.store = store or _client(meeting)

    def say(self, key: str, value: str) -> None:
        with _store_errors():
            self.store.set(self._key(key), value)

    def hear(self, key: str) -> str:
        """Waits until someone said `key`."""
        self.wait(lambda: self._said(key))
        with _store_errors():
            return self.store.get(self._key(key)).decode()

    def layout(self) -> Layout:
        """What the sender will send: known before the first parcel is."""
        return Layout.from_json(self.hear("layout"))

    def call_off(self, why: str) -> None:
        """Tells everyone that the round is off; the first reason stands."""
        with suppress(RoundBroken), _store_errors():
            if not self._said("off"):
                self.store.set(self._key("off"), why)

    def wait(self, done: Callable[[], bool]) -> None:
        """Returns when `done()`; asks often at first, for a parcel may take a millisecond."""
        pause = 1e-4
        while not done():
            if time.monotonic() - self._looked > POLL_S:
                self.look()
            time.sleep(pause)
            pause = min(pause * 1.5, POLL_S / 5)

    def look(self) -> None:
        """Raises RoundBroken if the round is off or the time is up."""
        self._looked = time.monotonic()
        if self._said("off"):
            raise RoundBroken(self.store.get(self._key("off")).decode())
        if self._looked > self._deadline:
            raise RoundBroken(f"the weights did not arrive in {self.round.timeout_s:.0f} s")

    def _said(self, key: str) -> bool:
        with _store_errors():
            return self.store.check([self._key(key)])

    def _key(self, key: str) -> str:
        # With the publication: a new route to the same ranks counts its rounds from 1 again.
        return f"round/{self.round.serial}/{self.round.number}/{key}"


class Channel:
    """A process group of the sender and some engines' processes, used by one thread of each."""

    def __init__(self, line: Line, rank: int, device: torch.device) -> None:
        """Connects to the others, who must all have come: a process group waits for them in vain.

        Args:
            device: of the buffers, under NCCL; gloo has them on the host.
        """
        line.say(f"here/{rank}", "")
        for other in range(line.round.size):
            line.hear(f"here/{other}")
        self.device = device if line.round.backend == "nccl" else torch.device("cpu")
        self._group = _connected(line, rank)

    def receive(self, index: int, size: int, line: Line) -> Parcel:
        """Waits for parcel `index`, of `size` bytes."""
        published = line.hear(f"checksums/{index}").split()
        flat = torch.empty(size, dtype=torch.uint8, device=self.device)
        self.broadcast(flat, line)
        return Parcel(flat, tuple(map(int, published)))

    def broadcast(self, flat: Tensor, line: Line) -> None:
        """Sends `flat` as rank 0, fills it as another rank."""
        options = dist.BroadcastOptions()
        options.rootRank = 0
        options.rootTensor = 0
        options.timeout = timedelta(seconds=line.round.timeout_s)
        work = None
        try:
            with _group_errors():
                work = self._group.broadcast([flat], options)
                line.wait(work.is_completed)
                work.wait()
        except RoundBroken:
            # Who left may have said why, which tells more than a closed connection.
            line.look()
            raise
        finally:
            # Else the traceback of an error keeps the connections open, and the others wait.
            del work

    def close(self) -> None:
        """Lets go of the group, which ends what the others still do in it.

        In a thread: gloo waits for what this process still does in it, until the others let go too.
        """
        threading.Thread(target=_let_go, args=([self._group],), daemon=True).start()
        self._group = None


def _let_go(holder: list[dist.ProcessGroup]) -> None:
    with suppress(RuntimeError):
        holder.pop().abort()


def _client(meeting: Round) -> dist.Store:
    with _store_errors():
        return dist.TCPStore(
            meeting.host,
            meeting.port,
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=MEET_S),
        )


def _connected(line: Line, rank: int) -> dist.ProcessGroup:
    """Connects in a thread, which can be left: it waits for one that died since it came."""
    # Not the line's: a wait inside would block it.
    store = dist.PrefixStore(f"group/{line.round.group}", _client(line.round))
    make = _nccl if line.round.backend == "nccl" else _gloo
    made: list[dist.ProcessGroup | RuntimeError] = []

    def connect() -> None:
        try:
            made.append(make(store, rank, line.round))
        except RuntimeError as error:
            made.append(error)

    threading.Thread(target=connect, daemon=True).start()
    line.wait(lambda: bool(made))
    with _group_errors():
        if isinstance(made[0], RuntimeError):
            raise made[0]
    return made[0]


def _gloo(store: dist.Store, rank: int, meeting: Round) -> dist.ProcessGroup:
    options = dist.ProcessGroupGloo._Options()
    options._timeout = timedelta(seconds=MEET_S)
    # Else gloo takes the address of this host's name, which others may not reach.
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=_own_address(meeting))]
    return dist.ProcessGroupGloo(store, rank, meeting.size, options)


def _nccl(store: dist.Store, rank: int, meeting: Round) -> dist.ProcessGroup:
    from torch.distributed import ProcessGroupNCCL  # CUDA builds of torch only

    options = ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=MEET_S)
    return ProcessGroupNCCL(store, rank, meeting.size, options)


def _own_address(meeting: Round) -> str:
    """The address of this host on the way to the store; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((meeting.host, meeting.port))
        return probe.getsockname()[0]


@contextmanager
def _store_errors() -> Iterator[None]:
    with _as_broken("the rank that sends the weights is gone"):
        yield


@contextmanager
def _group_errors() -> Iterator[None]:
    with _as_broken("a process of the round is gone"):
        yield


@contextmanager
def _as_broken(what: str) -> Iterator[None]:
    """Turns torch's errors of a lost peer into RoundBroken."""
    try:
        yield
    except RoundBroken:
        raise
    except RuntimeError as error:
        raise RoundBroken(f"{what}: {str(error).splitlines()[0]}") from error
