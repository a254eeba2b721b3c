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
        # vLLM then loads as at the start and brings each layer into its kernel's layout again. In
        # float32 on a CPU the layers compute with the parameters as they are, but for experts.
        self._layerwise = not current_platform.is_cpu() or _is_packed(model)

    def begin(self) -> None:
        self._loaded = set()
        if self._layerwise:
            with torch.no_grad():
                initialize_layerwise_reload(self._model)

    def load(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Copies some weights into the live model; vLLM merges and shards by Hugging Face name."""
        with torch.no_grad():
            self._loaded |= self._model.load_weights(named) or set()

    def end(self) -> None:
        """Raises RuntimeError if a parameter of the live model was not written: vLLM would not."""
        if self._layerwise:
            with torch.no_grad():
                finalize_layerwise_reload(self._model, self._model_config)
            if current_platform.is_cpu():
                _pack_heads(self._model)
        else:
            _pack_experts(self._model)
        left = {name for name, _ in self._model.named_parameters()} - self._loaded
        if left:
            raise RuntimeError(
                f"vLLM left {len(left)} parameters unwritten, such as {sorted(left)[0]}."
            )


def _is_packed(model: torch.nn.Module) -> bool:
    """Returns whether a kernel keeps a layer's weights in a layout of its own, as in bfloat16."""
    return any(not parameter.numel() for parameter in model.parameters())


def _pack_heads(model: torch.nn.Module) -> None:
    """Packs anew what computes with a packed copy of a weight that it keeps.

    That is embeddings and heads. A head that is tied to the embeddings is not loaded by name, so
    vLLM's reload passes it over, and its copy would stay that of the old weights.
    """
    for module in model.modules():
        if hasattr(module, "cpu_linear") and module.weight.numel():
            module.quant_method.process_weights_after_loading(module)


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
