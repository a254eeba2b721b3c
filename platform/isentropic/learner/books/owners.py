"""Who owns AdamW's momentum: one buffer for every class of tokens, and one for what was before.

Adam's momentum m is linear in the gradients, so it splits as the gradient does. With g_c the
gradient of class c's part of the loss, and `before` what m held when the owners were first
followed,

    m = before + sum_c m_c      m_c' = b1 m_c + (1 - b1) s g_c      before' = b1 before

in the notation of `books.update`, and the change along the optimizer's step needs no line for
momentum:

    trapezoid = sum_c part_c + part_before + decay      part_c = - lr / (1 - b1^t) <G / D, m_c'>

Several ways to sort the tokens can be followed at once: each splits the whole momentum.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from isentropic.learner.books.shards import Shards, local, sum_over_shards

BEFORE = "before"


class Owners:
    """Follows the momentum of every class of tokens.

    Holds one copy of the shards per class, in float64.

    Call `decay` and then `add` for each class that has tokens, for every optimizer step, before it
    is made.

    Args:
        optimizer: AdamW with one group over all parameters.
        policy_version: of the weights that it begins with.
    """

    def __init__(self, optimizer: torch.optim.AdamW, policy_version: int) -> None:
        (self._group,) = optimizer.param_groups
        self.policy_version = policy_version
        # In float64: the buffers go through as many roundings as there are updates, and their sum
        # must be the optimizer's momentum.
        self._buffers: dict[str, Shards] = {
            BEFORE: [
                local(optimizer.state[parameter]["exp_avg"]).to(torch.float64, copy=True)
                for parameter in self._group["params"]
            ]
        }

    def decay(self) -> None:
        """Lets every class lose what the momentum loses in one step."""
        beta1, _ = self._group["betas"]
        for shards in self._buffers.values():
            for shard in shards:
                shard.mul_(beta1)
        self.policy_version += 1

    def add(self, owner: str, gradients: Shards, scale: float) -> None:
        """Adds a class's gradient, summed over ranks, after `decay`.

        scale: what the clip of the whole gradient leaves of it.
        """
        beta1, _ = self._group["betas"]
        if owner not in self._buffers:
            self._buffers[owner] = [
                torch.zeros_like(part, dtype=torch.float64) for part in gradients
            ]
        for shard, part in zip(self._buffers[owner], gradients, strict=True):
            shard.add_(part.double(), alpha=(1 - beta1) * scale)

    @torch.no_grad()
    def parts(self, along: Iterable[Tensor]) -> dict[str, float]:
        """Returns what each owner's momentum does to the entropy, in nats, over all ranks.

        along: G / ((1 - b1^t) D) of each shard, in float64.
        """
        products = [  # of each shard with that of every owner; `along` may make it as it is asked
            [(part * shard).sum() for shard in shards]
            for part, *shards in zip(along, *self._buffers.values(), strict=True)
        ]
        sums: Tensor = torch.stack([torch.stack(one).sum() for one in zip(*products, strict=True)])
        sum_over_shards(sums, self._group["params"][0])
        rate = self._group["lr"]
        return {
            owner: -rate * part for owner, part in zip(self._buffers, sums.tolist(), strict=True)
        }
