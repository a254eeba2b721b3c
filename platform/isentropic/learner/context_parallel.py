"""Context parallelism: ranks share the tokens of a microbatch (Ulysses, arXiv:2309.14509).

A context group is n ranks in a row. Each runs the layers and the output layer on its own n-th of the
packed tokens, wherever that cuts a sequence. Only attention mixes tokens: before it an all-to-all
trades heads for tokens, so that a rank has all tokens of H / n heads, and after it another trades
back.

Outside the model nothing is cut. All ranks of a group are given the same microbatch, and the
statistics of their parts are joined, so that each computes the loss over whole sequences and goes
back through the part that is its own. Summed over all ranks, as always, the gradients are those of
the loss.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single
from transformers import PretrainedConfig

from isentropic.learner.images import ImageInputs
from isentropic.objectives.tokens.statistics import TokenStatistics
from isentropic.records import Ints, MicroBatch


class ContextGroup:
    """The `size` ranks that share this rank's microbatches; of their parts it has the `index`-th.

    Collective: all ranks of the run make it together.

    Args:
        size: n, a divisor of the ranks there are.
        timeout_s: for any collective.

    Attributes:
        peers: the ranks of the group.
        counterparts: one rank of every group: over them, each microbatch counts once.
    """

    def __init__(self, size: int, timeout_s: float) -> None:
        self.size = size
        self.index = dist.get_rank() % size
        ranks = torch.arange(dist.get_world_size()).view(-1, size)
        self.peers = subgroup(ranks, timeout_s)
        self.counterparts = subgroup(ranks.T, timeout_s)

    def mark(self, layers: Iterable[nn.Module]) -> None:
        """Lets `attention.packed_attention` know, when these layers call it, whom to trade with.

        An argument of the forward might be dropped on its way, by some model's own code.
        """
        for layer in layers:
            for module in layer.modules():
                module.context_group = self.peers

    def part(self, batch: MicroBatch) -> tuple[MicroBatch, Ints]:
        """Returns this rank's part of a microbatch, and which of its N response tokens are in it."""
        return cut(batch, self.index, self.size)

    def image_part(self, images: ImageInputs) -> ImageInputs:
        """Returns the image inputs of this rank's part; all pixels, for the whole vision tower."""
        return cut_images(images, self.index, self.size)

    def join(self, statistics: TokenStatistics, chosen: Ints, count: int) -> TokenStatistics:
        """Puts the parts' statistics together to [N], in the microbatch's order.

        Args:
            statistics: of this rank's tokens.
            chosen: their places among the `count` of the microbatch.
        """
        mine = torch.stack(list(statistics))
        places = torch.from_numpy(chosen).to(mine.device, non_blocking=True)
        whole = mine.new_zeros(len(mine), count).index_copy(1, places, mine)
        return TokenStatistics(*_SumOfParts.apply(whole, self.peers))


class _SumOfParts(torch.autograd.Function):
    """A sum over ranks whose gradient is not: each rank has the whole loss, and its own part of it."""

    @staticmethod
    def forward(ctx, whole: Tensor, group: dist.ProcessGroup) -> Tensor:
        whole = whole.clone()
        dist.all_reduce(whole, group=group)
        return whole

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def subgroup(ranks: Tensor, timeout_s: float) -> dist.ProcessGroup:
    """Makes a group of each row of ranks and returns this rank's. Collective.

    `init_device_mesh` would make them with torch's own timeout, of half an hour.
    """
    group, _ = dist.new_subgroups_by_enumeration(
        ranks.tolist(), timeout=timedelta(seconds=timeout_s)
    )
    return group


def check_heads(model: PretrainedConfig, size: int) -> None:
    """Raises ValueError if the attention heads cannot be dealt out to `size` ranks."""
    heads = getattr(model.get_text_config(decoder=True), "num_attention_heads", None) or size
    if heads % size:
        raise ValueError(
            f"learner.context_parallel={size}: the model's {heads} attention heads cannot be "
            f"spread evenly over {size} ranks. Use a divisor of {heads}."
        )


def trade(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Splits the first axis over the ranks of a group, and joins their parts along the second.

    [H, T / n, D] becomes [H / n, T, D] (heads for tokens), and [T, H / n, D] becomes
    [T / n, H, D] (tokens for heads). Its gradient is the trade back.
    """
    size = group.size()
    parts = tensor.unflatten(0, (size, tensor.size(0) // size)).contiguous()
    return all_to_all_single(parts, None, None, group).transpose(0, 1).flatten(1, 2)


def enough_heads(shared: Tensor, size: int) -> Tensor:
    """Repeats heads of keys or values [H_kv, T, D] until they can be dealt out to `size` ranks."""
    times = math.lcm(shared.size(0), size) // shared.size(0)
    return shared if times == 1 else shared.repeat_interleave(times, dim=0)


def cut(batch: MicroBatch, index: int, size: int) -> tuple[MicroBatch, Ints]:
    """Cuts out the `index`-th of `size` equal parts, and says which of the N tokens are in it.

    What is missing to equal parts is filled up with one more sequence, which nobody reads.

    Returns:
        The microbatch that the model is to see: own tokens, positions, predicting states and
        targets; the sequences' boundaries are those of the whole. Its other fields mean nothing.
        And [n] places of its targets in the whole's.
    """
    total = len(batch.token_ids)
    length = -(-total // size)
    missing = length * size - total
    start = index * length
    filled = np.arange(missing)
    bounds = batch.cu_seqlens if not missing else np.append(batch.cu_seqlens, length * size)
    chosen = np.flatnonzero((batch.predict >= start) & (batch.predict < start + length))
    part = replace(
        batch,
        token_ids=np.append(batch.token_ids, 0 * filled)[start : start + length],
        position_ids=np.append(batch.position_ids, filled)[start : start + length],
        cu_seqlens=bounds,
        predict=batch.predict[chosen] - start,
        target=batch.target[chosen],
    )
    return part, chosen


def cut_images(images: ImageInputs, index: int, size: int) -> ImageInputs:
    """Cuts out the `index`-th of `size` equal parts; image tokens elsewhere are left out."""
    total = images.position_ids.shape[1]
    length = -(-total // size)
    missing = length * size - total
    start = index * length
    filled = torch.arange(missing).expand(3, -1)
    inside = (images.place >= start) & (images.place < start + length)
    return images._replace(
        position_ids=torch.cat([images.position_ids, filled], dim=1)[:, start : start + length],
        place=images.place[inside] - start,
        feature=images.feature[inside],
    )
