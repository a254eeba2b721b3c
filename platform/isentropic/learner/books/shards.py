"""This rank's shards of parameters, and sums over all ranks."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

Shards = list[Tensor]


def local(tensor: Tensor) -> Tensor:
    """Returns this rank's shard, sharing memory."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sum_over_shards(tensor: Tensor, parameter: Tensor) -> None:
    """Adds up a tensor, in place, over the ranks that `parameter` is sharded over.

    Over its replicas it must not be added up: each has all of it.
    """
    if isinstance(parameter, DTensor) and parameter.device_mesh.size(-1) > 1:
        dist.all_reduce(tensor, group=parameter.device_mesh.get_group(-1))


def on_host(tensor: Tensor) -> Tensor:
    """Copies this rank's shard to host memory."""
    return local(tensor).to("cpu", copy=True)


def local_gradient(parameter: Tensor) -> Tensor:
    """Returns this rank's shard of a gradient, sharing memory."""
    # A parameter that no loss reaches has no gradient: count it as 0.
    gradient = parameter.grad
    return torch.zeros_like(local(parameter)) if gradient is None else local(gradient)


def local_gradients(parameters: Shards) -> Shards:
    """Copies this rank's shards of the gradients."""
    return [local_gradient(parameter).clone() for parameter in parameters]
