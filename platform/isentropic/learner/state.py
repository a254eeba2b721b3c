"""The learner's state on disk: sharded, only tensors, loadable on another number of ranks."""

import os
import pickle
import struct
from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.tensor import DTensor

from isentropic.durable import FileEntry, file_entry, sync_folder
from isentropic.learner.books.shards import sum_over_shards
from isentropic.learner.optimizer import moments, set_steps, trained_parameters

# Every class that the index of a checkpoint of ours is made of; any other is refused.
# BytesStorageMetadata is left out on purpose: what an index calls bytes, torch unpickles without
# limits.
ALLOWED = {
    ("torch", "Size"),
    ("torch", "device"),
    ("torch._utils", "_rebuild_device"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "Metadata"),
    ("torch.distributed.checkpoint.metadata", "MetadataIndex"),
    ("torch.distributed.checkpoint.metadata", "StorageMeta"),
    ("torch.distributed.checkpoint.metadata", "TensorProperties"),
    ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    ("pathlib", "PosixPath"),
    ("collections", "OrderedDict"),
}
# What unpickling raises on a file that is cut short or changed.
DAMAGE = (
    pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, struct.error,
    UnicodeDecodeError, OverflowError,
)  # fmt: skip


class SafeReader(FileSystemReader):
    """Reads a checkpoint whose index may come from a stranger: only plain records are unpickled."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = self._get_metadata_path(kwargs.get("rank"))
        try:
            with open(path, "rb") as file:
                metadata = _Unpickler(file).load()
        except FileNotFoundError:
            raise ValueError(
                f"{path} does not exist: this is no checkpoint of a learner, or a torn one. "
                "Load another checkpoint."
            ) from None
        except DAMAGE as error:
            raise ValueError(f"{path} is damaged ({error}): load an older checkpoint.") from error
        if not isinstance(metadata, Metadata):
            raise ValueError(f"{path} holds a {type(metadata).__name__}, not a checkpoint's index.")
        for info in metadata.storage_data.values():
            if info.relative_path != os.path.basename(info.relative_path):
                raise ValueError(
                    f"{path} names {info.relative_path!r}, outside the checkpoint. "
                    "It was not loaded."
                )
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle._Unpickler):
    """Makes objects of the allowed classes, and changes nothing that was there before.

    In Python, because the one in C lets nobody look at BUILD, which sets attributes: of an allowed
    class too, such as `Path.is_file`, for the whole process.
    """

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def load_build(self) -> None:
        target = self.stack[-2]
        made = (type(target).__module__, type(target).__qualname__) in ALLOWED
        if not made or isinstance(target, Enum):
            raise ValueError(
                f"the checkpoint's index sets attributes of {target!r:.80}, which no checkpoint of "
                "ours does. It was not loaded."
            )
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, 0), torch.dtype)
        if (module, name) not in ALLOWED and not is_dtype:
            raise ValueError(
                f"the checkpoint's index names {module}.{name}, which no checkpoint of ours holds. "
                "It was not loaded."
            )
        if name == "PosixPath":  # of the folder that it was written to, which nobody asks for
            return lambda *parts: "/".join(map(str, parts))
        return super().find_class(module, name)


def begin_save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.AdamW,
    policy_version: int,
    rank: int,
    group: dist.ProcessGroup | None = None,
) -> Callable[[], dict[str, FileEntry]]:
    """Copies the state and writes the copy in a thread.

    The state is weights, optimizer, policy version and this rank's random state; AdamW's step count
    and the schedule's position are `policy_version`. It may change as soon as this returns. Of
    weights that are frozen only a checksum is in it.

    Collective: every rank calls it, and then what it returns. That call waits until all is durable
    and returns the files that this rank wrote, by name, with their hashes; if one rank cannot
    write, such as on a full disk, it raises OSError on every rank.

    Args:
        group: only for the thread's collectives, with a CPU backend; None if no other collectives
            run at the same time.
    """
    os.makedirs(folder, exist_ok=True)
    state = _weights(model, optimizer)
    state["policy_version"] = torch.tensor(policy_version)
    state |= _checksum_of_frozen(model)
    state |= {f"rng/{rank}/{name}": value for name, value in _random_state().items()}
    writing = dcp.async_save(state, checkpoint_id=folder, process_group=group)
    return partial(_end_save, Path(folder), writing, rank)


def _end_save(folder: Path, writing: Future, rank: int) -> dict[str, FileEntry]:
    try:
        writing.result()
    except CheckpointException as error:
        # A BaseException: uncaught it would pass every `except Exception` and end the process.
        raise OSError(f"{folder}: {_reasons(error)}") from None
    sync_folder(folder)
    sync_folder(folder.parent)
    # Each rank hashes its own files, which its machine still has in memory: one process that read
    # those of all ranks from a shared disk took minutes per checkpoint at 7 B.
    written = list(folder.glob(f"__{rank}_*.distcp"))
    if rank == 0:
        written.append(folder / ".metadata")
    return {path.name: file_entry(path) for path in written}


def load_state(folder: Path, model: nn.Module, optimizer: torch.optim.AdamW, rank: int) -> int:
    """Restores what `begin_save` wrote and returns the policy version. Collective.

    A rank that the saving run did not have keeps its own random state.
    """
    reader = SafeReader(folder)
    known = reader.read_metadata().state_dict_metadata
    state = _weights(model, optimizer)
    missing = sorted(state.keys() - known.keys())
    if missing:
        raise ValueError(
            f"{folder} lacks {missing[:3]} ({len(missing)} in all): it is of another model. "
            "Load a checkpoint of this run's model."
        )
    state["policy_version"] = torch.tensor(0)
    frozen = _checksum_of_frozen(model)
    state |= {name: torch.zeros_like(value) for name, value in frozen.items()}
    random = {f"rng/{rank}/{name}": value for name, value in _random_state().items()}
    state |= {name: value for name, value in random.items() if name in known}
    try:
        dcp.load(state, storage_reader=reader)
    except CheckpointException as error:
        raise ValueError(
            f"{folder} cannot be read ({_reasons(error)}): load an older checkpoint."
        ) from None
    if any(int(state[name]) != int(value) for name, value in frozen.items()):
        raise ValueError(
            f"{folder} holds adapters of a model with other weights than this one. Give the model "
            "that they were trained on: its files must be the same."
        )
    policy_version = int(state["policy_version"])
    set_steps(optimizer, policy_version)
    _set_random_state({name.rpartition("/")[2]: state[name] for name in random if name in known})
    return policy_version


def _reasons(error: CheckpointException) -> str:
    reasons = {f"rank {rank}: {cause}" for rank, (cause, _) in error.failures.items()}
    return "; ".join(sorted(reasons))


def copy_state(
    model: nn.Module, optimizer: torch.optim.AdamW, policy_version: int
) -> dict[str, Tensor]:
    """Copies this rank's weights and moments, and the policy version, for `put_back`."""
    state = {name: tensor.detach().clone() for name, tensor in _weights(model, optimizer).items()}
    return state | {"policy_version": torch.tensor(policy_version)}


@torch.no_grad()
def put_back(state: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.AdamW) -> int:
    """Fills weights and optimizer from `copy_state`'s copies; returns the policy version."""
    for name, tensor in _weights(model, optimizer).items():
        tensor.copy_(state[name])
    policy_version = int(state["policy_version"])
    set_steps(optimizer, policy_version)
    return policy_version


def same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Returns whether two copies are equal."""
    return all(torch.equal(_local(one[name]), _local(value)) for name, value in other.items())


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _weights(model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """Maps flat names to the live tensors, which loading fills in place."""
    trained = trained_parameters(model)
    state = {f"model/{name}": parameter.detach() for name, parameter in trained.items()}
    for moment in ("exp_avg", "exp_avg_sq"):
        state |= {
            f"{moment}/{name}": value for name, value in moments(model, optimizer, moment).items()
        }
    return state


def _checksum_of_frozen(model: nn.Module) -> dict[str, Tensor]:
    """Sums the bits of the weights that are not trained, on any number of ranks; {} without them.

    A checkpoint lacks these weights: with other ones its adapters would be another policy, silently.
    """
    frozen = [each for each in model.parameters() if not each.requires_grad]
    if not frozen:
        return {}
    words = [_local(each.detach()).contiguous().view(torch.int32) for each in frozen]
    total = torch.stack([each.sum(dtype=torch.int64) for each in words]).sum()
    sum_over_shards(total, frozen[0])
    return {"frozen": total.cpu()}


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Tensor]) -> None:
    if "cpu" in state:
        torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
