"""Keeps a learner's state in host memory while engines have the GPU."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class Offload:
    """Moves the memory of tensors to the host and back, bit for bit.

    Only the memory moves. The tensors stay what they are, so that optimizer, FSDP and checkpoints
    go on with those they know; between `leave` and `come_back` nobody may read them, but inside
    `visit`.
    """

    def __init__(self) -> None:
        self.away = False
        self._storages: list[torch.UntypedStorage] = []
        self._copies: list[Tensor] = []  # kept: pinning memory costs more than copying

    def leave(self, tensors: Iterable[Tensor]) -> None:
        """Frees the tensors' memory on their device, and what the allocator keeps of others."""
        assert not self.away, "the state is on the host already"
        self._storages = list(
            {s.data_ptr(): s for s in map(_storage, tensors) if s.nbytes()}.values()
        )
        sizes = [storage.nbytes() for storage in self._storages]
        if [copy.nbytes for copy in self._copies] != sizes:
            self._copies = [_host(storage) for storage in self._storages]
        for storage, copy in zip(self._storages, self._copies, strict=True):
            copy.copy_(_bytes(storage), non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        for storage in self._storages:
            storage.resize_(0)
        # Else the allocator keeps the peak of the last update, and the engines find no room.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.away = True

    def come_back(self) -> None:
        """Fills the tensors again; does nothing if they never left."""
        if not self.away:
            return
        for storage, copy in zip(self._storages, self._copies, strict=True):
            storage.resize_(copy.nbytes)
            _bytes(storage).copy_(copy, non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._storages = []
        self.away = False

    @contextmanager
    def visit(self, tensors: Iterable[Tensor]) -> Iterator[None]:
        """Lets some of the tensors be read inside, on their device; does nothing if none has left.

        What is written to them is lost.
        """
        wanted = {_storage(tensor)._cdata for tensor in tensors} if self.away else set()
        pairs = zip(self._storages, self._copies, strict=True) if wanted else ()
        visitors = [(storage, copy) for storage, copy in pairs if storage._cdata in wanted]
        for storage, copy in visitors:
            storage.resize_(copy.nbytes)
            _bytes(storage).copy_(copy, non_blocking=True)
        try:
            yield
        finally:
            for storage, _ in visitors:
                storage.resize_(0)


def state_tensors(models: Iterable[nn.Module], optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What a rank holds between calls: the shards of its models, and the optimizer's moments."""
    weights = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
    state = [value for values in optimizer.state.values() for value in values.values()]
    return [tensor for tensor in (*weights, *state) if isinstance(tensor, Tensor)]


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    local = tensor.detach()
    local = local.to_local() if isinstance(local, DTensor) else local
    return local.untyped_storage()


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _host(storage: torch.UntypedStorage) -> Tensor:
    pinned = storage.device.type == "cuda"
    return torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=pinned)
