"""Writes new weights into vLLM's live model, in one process of an engine."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.platforms import current_platform


class Reload:
    """One pass over all weights; inside `set_current_vllm_config`."""

    def __init__(self, model: torch.nn.Module, model_config: Any) -> None:
        self._model = model
        self._model_config = model_config
        self._loaded: set[str] = set()

    def begin(self) -> None:
        self._loaded = set()
        if not current_platform.is_cpu():
            with torch.no_grad():
                initialize_layerwise_reload(self._model)

    def load(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Copies some weights into the live model; vLLM merges and shards by Hugging Face name."""
        with torch.no_grad():
            self._loaded |= self._model.load_weights(named) or set()

    def end(self) -> None:
        """Raises RuntimeError if a parameter of the live model was not written: vLLM would not."""
        if not current_platform.is_cpu():
            with torch.no_grad():
                finalize_layerwise_reload(self._model, self._model_config)
        else:
            _pack_experts(self._model)
        left = {name for name, _ in self._model.named_parameters()} - self._loaded
        if left:
            raise RuntimeError(
                f"vLLM left {len(left)} parameters unwritten, such as {sorted(left)[0]}."
            )


def _pack_experts(model: torch.nn.Module) -> None:
    """Brings experts' weights into the layout of the CPU's kernel, as vLLM does at the start only.

    Without it the kernel reads the new weights as if they were packed: logprobs were wrong by half
    a nat.
    """
    for module in model.modules():
        kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
        if kernel is not None and hasattr(module, "w13_weight"):
            with torch.no_grad():
                kernel.fused_experts.process_weights_after_loading(module)
