"""Lends weights to engines on the ranks' own devices: a parcel stays where the ranks gathered it.

Each rank has the memory of one parcel, for all parcels of a round. An engine's process maps that of
the rank on its device (by CUDA IPC on a GPU, by a file without a name on CPUs), copies each parcel
out of it and says so. Nothing of a GPU goes through host memory, and no rank keeps what it gathered.
"""

import json
import os
import socket
import time
from collections.abc import Iterable

import torch
from torch import Tensor

from isentropic.weights.channel import Line, Round
from isentropic.weights.parcels import Layout, Parcel, fill_parcels


def lend(
    meeting: Round, rank: int, layout: Layout, named: Iterable[tuple[str, Tensor]]
) -> dict[str, float]:
    """Gathers all parcels as `rank` of the learner, one after the other as the engines take them.

    Returns the seconds of both phases: gathering, and waiting for the engines. Raises what gathering
    raises, or RoundBroken; `named` is then read in part, and other ranks may be inside a collective.
    """
    line = Line(meeting)
    try:
        if rank == 0:
            line.say("layout", layout.to_json())
        # An engine that starts again measures what is free on its device: nothing is lent before.
        for engine in _engines(meeting):
            line.hear(f"here/{engine}")
        seconds = _hand_out(line, rank, layout, named)
    except BaseException as error:
        line.call_off(f"learner rank {rank}: {error}")
        raise
    finally:
        # Else the allocator keeps the parcel, and the engine finds no room for its cache.
        if torch.cuda.is_available():
            torch.cuda.ipc_collect()
            torch.cuda.empty_cache()
    line.say(f"freed/{rank}", "")
    return seconds


def _hand_out(
    line: Line, rank: int, layout: Layout, named: Iterable[tuple[str, Tensor]]
) -> dict[str, float]:
    memory = _Memory(max(layout.num_bytes(index) for index in range(len(layout.parcels))))
    waited = 0.0
    start = time.perf_counter()
    try:
        for index, parcel in enumerate(fill_parcels(named, layout, memory.zeros)):
            filled = time.perf_counter()
            if index == 0:
                line.say(f"on/{rank}", device_name(parcel.flat.device))
                # A GPU's memory that nobody opens would never be free again.
                if str(rank) in [line.hear(f"from/{engine}") for engine in _engines(line.round)]:
                    line.say(f"lent/{rank}", memory.handle())
            # Their sums were read on the host: by now the parcel is whole on the device too.
            line.say(f"checksums/{rank}/{index}", " ".join(map(str, parcel.checksums)))
            # For all engines, not just those on this device: a rank whose engine is late would keep
            # the others inside a collective, whose deadline then blames the rank.
            for engine in _engines(line.round):
                line.hear(f"taken/{engine}/{index}")
            waited += time.perf_counter() - filled
    finally:
        memory.close()
    return {"gather_s": time.perf_counter() - start - waited, "send_s": waited}


class _Memory:
    """Bytes that another process of the device can map: the same for one parcel after the other."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._flat: Tensor | None = None
        self._file: int | None = None

    def zeros(self, size: int, device: torch.device) -> Tensor:
        if self._flat is None:
            self._flat = self._allocated(device)
        return self._flat[:size].zero_()

    def handle(self) -> str:
        """Returns what `Loan` opens it with, as text.

        Once per round: on a GPU the memory is free only after every handle was opened and closed.
        """
        if self._file is None:
            handle = list(self._flat.untyped_storage()._share_cuda_())
        else:
            handle = [f"/proc/{os.getpid()}/fd/{self._file}", self._size]
        values = [{"hex": each.hex()} if isinstance(each, bytes) else each for each in handle]
        return json.dumps(values)

    def close(self) -> None:
        """Lets go of it; on CPUs a mapping keeps the bytes."""
        self._flat = None
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _allocated(self, device: torch.device) -> Tensor:
        if device.type == "cuda":
            return torch.empty(self._size, dtype=torch.uint8, device=device)
        # Not by torch's own sharing between processes: its files have names in /dev/shm, and need a
        # helper process that removes them after a kill. This one is gone with who maps it.
        self._file = os.memfd_create("isentropic-weights")
        os.ftruncate(self._file, self._size)
        return _from_file(f"/proc/self/fd/{self._file}", self._size)


class Loan:
    """The engine's end: the memory of the rank on its device, mapped for one round."""

    def __init__(self, line: Line, rank: int, device: torch.device, num_parcels: int) -> None:
        """Waits until the ranks lend.

        Raises ValueError if none is on `device`, RuntimeError if its memory cannot be opened.
        """
        self._rank = rank
        self._device = device
        self._last = num_parcels - 1
        line.say(f"here/{rank}", "")
        self._lender = self._find(line)
        line.say(f"from/{rank}", str(self._lender))
        values = json.loads(line.hear(f"lent/{self._lender}"))
        handle = [bytes.fromhex(v["hex"]) if isinstance(v, dict) else v for v in values]
        try:
            self._flat: Tensor | None = _mapped(handle, device)
        except (RuntimeError, OSError) as error:
            raise RuntimeError(
                f"an engine cannot open the memory of learner rank {self._lender} on "
                f"{device_name(device)}: {str(error).splitlines()[0]}. Both must run on one machine "
                "and in one container. Set weights.transport=objects, which needs neither."
            ) from error

    def receive(self, index: int, size: int, line: Line) -> Parcel:
        """Copies one parcel into memory of its own: vLLM may read it later than the next comes."""
        sums = line.hear(f"checksums/{self._lender}/{index}").split()
        flat = self._flat[:size].clone()
        if flat.is_cuda:
            torch.cuda.synchronize(self._device)
        if index == self._last:
            self.close()
        line.say(f"taken/{self._rank}/{index}", "")
        if index == self._last:
            line.hear(f"freed/{self._lender}")
        return Parcel(flat, tuple(map(int, sums)))

    def close(self) -> None:
        self._flat = None

    def _find(self, line: Line) -> int:
        """Returns the first rank that is on this device."""
        mine = device_name(self._device)
        devices = []
        for rank in range(line.round.senders):
            devices.append(line.hear(f"on/{rank}"))
            if devices[-1] == mine:
                return rank
        raise ValueError(
            f"no learner rank is on {mine}, where an engine is; they are on {', '.join(devices)}. "
            "Set weights.transport=objects, or no more rollout.num_actors than learner.num_ranks."
        )


def device_name(device: torch.device) -> str:
    """Names a device alike in every process: a GPU by its UUID, CPUs by their machine."""
    if device.type == "cuda":
        return f"GPU {torch.cuda.get_device_properties(device).uuid}"
    return f"the CPUs of {socket.gethostname()}"


def _engines(meeting: Round) -> range:
    return range(meeting.senders, meeting.size)


def _mapped(handle: list, device: torch.device) -> Tensor:
    if device.type == "cpu":
        return _from_file(*handle)
    # The first value is the index that the device has for the rank.
    storage = torch.UntypedStorage._new_shared_cuda(device.index or 0, *handle[1:])
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _from_file(path: str, size: int) -> Tensor:
    return torch.from_file(path, shared=True, size=size, dtype=torch.uint8)
