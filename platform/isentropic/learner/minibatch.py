"""Objectives with minibatch statistics: all ranks see all tokens, in one order, and agree."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from isentropic.objectives.loss.leaves import LeafResult
from isentropic.records import MicroBatch


def minibatch_gradients(
    microbatches: Sequence[MicroBatch],
    fields: Sequence[Mapping[str, Tensor]],
    leaves: Callable[[dict[str, Tensor]], LeafResult],
    group: dist.ProcessGroup | None = None,
) -> tuple[list[tuple[Tensor, Tensor | None]], Tensor]:
    """Differentiates a whole minibatch: d loss / d (logprob, entropy) by microbatch, and the loss.

    Every rank must call it; the gradients are those of this rank's tokens. `leaves` is called once,
    with the fields of every rank in the order of the minibatch (by `rows`, then by token). The
    metrics see the tokens in the same order, so that a random draw by place is the same in both.
    The result depends neither on packing nor on ranks. Each field is [N] of its microbatch.

    Args:
        group: ranks that have the minibatch's tokens between them, each token once; None: all.
    """
    rows = [
        torch.as_tensor(batch.rows[batch.sequence_id], dtype=torch.float64)
        for batch in microbatches
    ]
    names = sorted(fields[0].keys() - {"sequence_id"})
    table = torch.cat(
        [
            torch.stack([row.to(part["logprob"].device), *(part[name].double() for name in names)])
            for row, part in zip(rows, fields, strict=True)
        ],
        dim=1,
    )
    everything, start = _gather(table, group)
    # Stable, or the tokens of a row would be shuffled: they lie on one rank, in order.
    order = everything[0].argsort(stable=True)
    whole = {
        name: everything[1 + index, order].to(fields[0][name].dtype)
        for index, name in enumerate(names)
    }
    whole["sequence_id"] = torch.unique(everything[0, order], return_inverse=True)[1]
    result = leaves(whole)

    def by_microbatch(gradient: Tensor | None) -> Sequence[Tensor | None]:
        """Cuts out this rank's tokens, and splits them at the microbatches."""
        if gradient is None:
            return [None] * len(rows)
        unsorted = torch.empty_like(gradient)
        unsorted[order] = gradient
        return unsorted[start : start + table.shape[1]].split([len(row) for row in rows])

    d_logprob = by_microbatch(result.d_logprob)
    d_entropy = by_microbatch(result.d_entropy)
    return list(zip(d_logprob, d_entropy, strict=True)), result.loss


def _gather(table: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, int]:
    """Lays [F, n] of all ranks side by side; returns that and where this rank's columns start."""
    world = dist.get_world_size(group)
    if world == 1:
        return table, 0
    size = torch.tensor([table.shape[1]], device=table.device)
    sizes = [torch.empty_like(size) for _ in range(world)]
    dist.all_gather(sizes, size, group=group)
    counts = [int(count) for count in sizes]
    padded = table.new_zeros(table.shape[0], max(counts))
    padded[:, : table.shape[1]] = table
    tables = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(tables, padded, group=group)
    parts = [part[:, :count] for part, count in zip(tables, counts, strict=True)]
    return torch.cat(parts, dim=1), int(np.sum(counts[: dist.get_rank(group)]))
