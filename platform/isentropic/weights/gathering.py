"""Whole tensors from the ranks' shards, small ones together.

A collective costs about the same for a norm's weight as for a megabyte: one by one, a small model's
tensors take most of a publication's time.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

TOGETHER_BYTES = 16 << 20  # held twice while they are taken apart


def full(tensor: Tensor) -> Tensor:
    """Returns all of a sharded tensor, any other as it is. Collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Returns the full tensors in `dtype`, to the bit of `DTensor.full_tensor`. Collective.

    Several that are sharded alike, by rows as FSDP2 does it, go through one all-gather.
    """
    tensors = [tensor.detach() for tensor in tensors]
    sharded = [tensor for tensor in tensors if _by_rows(tensor)]
    if len(sharded) < 2 or len({tensor.device_mesh for tensor in sharded}) > 1:
        return [full(tensor.to(dtype)) for tensor in tensors]
    whole = iter(_gather_rows(sharded, dtype))
    return [next(whole) if _by_rows(tensor) else full(tensor.to(dtype)) for tensor in tensors]


def _by_rows(tensor: Tensor) -> bool:
    """True of shards over the mesh's last dimension; over the others there are replicas."""
    if not isinstance(tensor, DTensor) or tensor.device_mesh.size(-1) == 1:
        return False
    *copies, rows = tensor.placements
    return rows == Shard(0) and all(copy == Replicate() for copy in copies)


def _gather_rows(tensors: Sequence[DTensor], dtype: torch.dtype) -> Iterator[Tensor]:
    """Yields the full tensors. Rank r of w has rows r c to (r + 1) c, c = ceil(rows / w)."""
    mesh = tensors[0].device_mesh
    ranks = mesh.size(-1)
    # Of shapes only: an index into a DTensor would gather it.
    sizes = [math.ceil(len(tensor) / ranks) * math.prod(tensor.shape[1:]) for tensor in tensors]
    own = torch.empty(sum(sizes), dtype=dtype, device=mesh.device_type)
    for place, tensor in zip(own.split(sizes), tensors, strict=True):
        rows = tensor.to_local().reshape(-1)
        place[: len(rows)].copy_(rows)  # the last ranks may have fewer, or none
    every = own.new_empty(ranks * len(own))
    dist.all_gather_into_tensor(every, own, group=mesh.get_group(mesh.ndim - 1))
    for part, tensor in zip(every.view(ranks, -1).split(sizes, dim=1), tensors, strict=True):
        yield part.reshape(-1)[: tensor.numel()].view(tensor.shape)
