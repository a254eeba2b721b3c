"""Keeps published weights in the host memory of learner rank 0, and sends them as often as asked.

Gathering and sending are two threads: the first parcel travels while the second is gathered. Sent
parcels are kept, because an engine that comes back in the middle of a draw needs the weights of that
draw, while the learner has moved on.
"""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from isentropic.weights.channel import MEET_S, Channel, Line, Round
from isentropic.weights.parcels import Layout, Parcel, fill_parcels


@dataclass
class _Post:
    layout: Layout
    parcels: list[Parcel] = field(default_factory=list)
    error: BaseException | None = None
    seconds: float = 0.0  # of gathering


class Outbox:
    """The weights that engines may still ask for, by the serial number of their publication.

    Args:
        host: address of this machine that the engines' machines reach.
    """

    def __init__(self, host: str) -> None:
        self._store = dist.TCPStore(
            host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=MEET_S)
        )
        self.address = (host, self._store.port)
        self._posts: dict[int, _Post] = {}
        self._next = 0
        self._free: list[Tensor] = []  # pinned; pinning costs more than copying
        self._channel: tuple[str, Channel] | None = None  # of the last round, with its group
        # Guards `_free`: gathering takes from it, `forget` gives back.
        self._lock = threading.Lock()

    def open(self, layout: Layout) -> int:
        """Returns the serial number of what `post` will gather."""
        self._next += 1
        self._posts[self._next] = _Post(layout)
        return self._next

    def post(self, serial: int, named: Iterable[tuple[str, Tensor]]) -> None:
        """Gathers all parcels. An error is raised here, and where they are sent."""
        post = self._posts[serial]
        start = time.perf_counter()
        try:
            for parcel in fill_parcels(named, post.layout):
                post.seconds = time.perf_counter() - start
                post.parcels.append(Parcel(self._on_host(parcel.flat), parcel.checksums))
        except BaseException as error:
            post.error = error
            raise

    def send(self, meeting: Round) -> dict[str, float]:
        """Sends one publication to the engines of a round; returns the seconds of both phases.

        Raises what gathering raised, or RoundBroken.
        """
        line = Line(meeting, self._store)
        post = self._posts[meeting.serial]
        seconds = 0.0
        try:
            line.say("layout", post.layout.to_json())
            channel = self._joined(line)
            for index in range(len(post.layout.parcels)):
                line.wait(lambda: self._gathered(post, index))  # noqa: B023
                start = time.perf_counter()
                parcel = post.parcels[index]
                line.say(f"checksums/{index}", " ".join(map(str, parcel.checksums)))
                channel.broadcast(parcel.flat.to(channel.device, non_blocking=True), line)
                seconds += time.perf_counter() - start
        except BaseException as error:
            line.call_off(f"the sender: {error}")
            self._leave()
            raise
        return {"gather_s": post.seconds, "send_s": seconds}

    def call_off(self, meeting: Round, why: str) -> None:
        """Ends a round from another thread."""
        Line(meeting, self._store).call_off(why)

    def forget(self, before: int) -> None:
        """Frees publications older than `before`: no engine will ask for them again."""
        for serial in [serial for serial in self._posts if serial < before]:
            post = self._posts.pop(serial)
            with self._lock:
                self._free += [p.flat for p in post.parcels if p.flat.is_pinned()]

    def _gathered(self, post: _Post, index: int) -> bool:
        if len(post.parcels) > index:
            return True
        if post.error is not None:
            raise post.error
        return False

    def _joined(self, line: Line) -> Channel:
        """The channel of the round's group: that of the last round, or a new one."""
        group = line.round.group
        if self._channel is None or self._channel[0] != group:
            self._leave()
            # A rank sees one GPU.
            self._channel = (group, Channel(line, 0, torch.device("cuda")))
        return self._channel[1]

    def _leave(self) -> None:
        if self._channel is not None:
            self._channel[1].close()
        self._channel = None

    def _on_host(self, flat: Tensor) -> Tensor:
        if flat.device.type == "cpu":
            return flat
        with self._lock:
            fits = [buffer for buffer in self._free if buffer.nbytes == flat.nbytes]
            host = fits[0] if fits else None
            self._free = [buffer for buffer in self._free if buffer is not host]
        if host is None:
            host = torch.empty(flat.nbytes, dtype=torch.uint8, pin_memory=True)
        return host.copy_(flat)
