"""Takes the parcels of a round in one process of an engine, and checks what came."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from isentropic.weights.channel import Channel, Line, Round
from isentropic.weights.lending import Loan
from isentropic.weights.parcels import Layout, check_layout, check_parcel, open_parcel


def expected_layout(
    meeting: Round, parameters: Mapping[str, tuple[int, ...]], dtype: torch.dtype
) -> Layout:
    """Waits for the layout of a round, before anything is written.

    Raises ValueError, and calls the round off, unless it fits the engine's model.
    """
    line = Line(meeting)
    layout = line.layout()
    try:
        check_layout(layout, parameters, dtype)
    except ValueError as error:
        line.call_off(str(error))
        raise
    return layout


class Inbox:
    """The engine's end of a channel; keeps the group from one round to the next.

    Args:
        device: of the engine's weights.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._channel: tuple[tuple, Channel | Loan] | None = None
        self._line: Line | None = None
        self._rank = 0
        self.layout: Layout | None = None
        self.seconds: dict[str, float] = {}

    def begin(self, meeting: Round, rank: int) -> None:
        """Takes part in a round as `rank` of its group; whoever calls must see it through."""
        self.seconds = {"load_s": 0.0, "check_s": 0.0}
        self._line = Line(meeting)
        self._rank = rank
        with self._calling_off():
            self.layout = self._line.layout()
            group = (meeting.host, meeting.port, meeting.group)
            # What is lent is lent for one round.
            lent = meeting.backend == "ipc"
            if lent or self._channel is None or self._channel[0] != group:
                self.close()
                self._channel = (group, self._join())

    def take(self, index: int, load: Callable[[Iterator[tuple[str, Tensor]]], None]) -> None:
        """Receives one parcel, checks it and hands its tensors to `load`.

        Raises ValueError, naming the tensors, if the bytes are not those that were published.
        """
        slots = self.layout.parcels[index]
        with self._calling_off():
            size = self.layout.num_bytes(index)
            parcel = self._channel[1].receive(index, size, self._line)
            start = time.perf_counter()
            check_parcel(parcel.flat, slots, parcel.checksums)
            checked = time.perf_counter()
            load(open_parcel(parcel.flat, slots, self.layout.dtype))
            self.seconds["check_s"] += checked - start
            self.seconds["load_s"] += time.perf_counter() - checked

    def close(self) -> None:
        if self._channel is not None:
            self._channel[1].close()
        self._channel = None

    def _join(self) -> Channel | Loan:
        if self._line.round.backend == "ipc":
            return Loan(self._line, self._rank, self._device, len(self.layout.parcels))
        return Channel(self._line, self._rank, self._device)

    @contextmanager
    def _calling_off(self) -> Iterator[None]:
        """Calls the round off for everyone if this process cannot go on."""
        try:
            yield
        except BaseException as error:
            self._line.call_off(f"rank {self._rank} of the round: {error}")
            self.close()
            raise
