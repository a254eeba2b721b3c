"""What the routers of a mixture of experts do: how sure they are, and which experts they choose."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from isentropic.records import RouterUse

# Their routers take a softmax over all experts and then the largest: the entropy of that softmax is
# what they are unsure of. Those of other families have sigmoids, groups or biases of their own.
SOFTMAX_ROUTERS = ("flex_olmo", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe")


class Routers:
    """Watches the routers of a causal LM; changes nothing of what they give.

    Args:
        lm: of one of the families in `SOFTMAX_ROUTERS`. Its routers, one per layer with experts,
            return (logits [T, E], weights [T, k], chosen experts [T, k]).
        device: where its forward passes run.
    """

    def __init__(self, lm: PreTrainedModel, device: torch.device) -> None:
        kind = lm._can_record_outputs["router_logits"].target_class
        routers = [module for module in lm.get_decoder().modules() if isinstance(module, kind)]
        for layer, router in enumerate(routers):
            router.register_forward_hook(partial(self._see, layer))
        self._shape = (len(routers), routers[0].num_experts)
        self._rows: Tensor | None = None  # None: a pass that does not count
        self.restart(device)

    def restart(self, device: torch.device) -> None:
        """Forgets what was seen, and counts on `device` from now on."""
        layers, experts = self._shape
        # One tensor, so that ranks add theirs up at once: choices per expert, entropy, tokens.
        self.sums = torch.zeros(layers, experts + 2, dtype=torch.float64, device=device)

    @contextmanager
    def over(self, rows: Tensor) -> Iterator[None]:
        """Counts these states, places in T, of the forward pass inside.

        The backward pass may run layers again, for their activations; these runs do not count.
        """
        self._rows = rows
        try:
            yield
        finally:
            self._rows = None

    def use(self) -> RouterUse:
        """Returns what was seen since `restart`."""
        sums = self.sums.cpu().numpy()
        return RouterUse(load=sums[:, :-2], entropy=sums[:, -2], tokens=int(sums[0, -1]))

    @torch.no_grad()
    def _see(self, layer: int, module: nn.Module, inputs: Any, output: tuple[Tensor, ...]) -> None:
        if self._rows is None:
            return
        logits, _, chosen = (each.index_select(0, self._rows) for each in output)
        logprob = logits.float().log_softmax(-1)
        sums = self.sums[layer]
        sums[:-2] += torch.bincount(chosen.flatten(), minlength=self._shape[1])
        sums[-2] -= (logprob.exp() * logprob).sum()
        sums[-1] += len(logits)


def find_routers(lm: PreTrainedModel, device: torch.device) -> Routers | None:
    """Returns the watcher of the model's routers; None without experts or in another family.

    device: where the model's forward passes run.
    """
    if lm.config.model_type not in SOFTMAX_ROUTERS:
        return None
    kind = lm._can_record_outputs["router_logits"].target_class
    # A Qwen MoE may have no layer with experts.
    return Routers(lm, device) if any(isinstance(module, kind) for module in lm.modules()) else None
