"""Low-rank adapters over a frozen model (LoRA, arXiv:2106.09685), by `peft`.

    y = x (W + alpha / rank * B A)^T        A [rank, in], B [out, rank], W [out, in] frozen

The learner multiplies by that merged matrix, in the dtype of its forward pass, and engines get the
same matrix: in every dtype they are one policy. peft's own forward, x W^T + (x A^T) B^T, keeps
changes that bfloat16 loses when they are merged: the engines would go on sampling from W while A
and B learn, until a change passes half the distance between two bfloat16 numbers.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from peft.tuners import lora as peft_lora
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.functional import linear
from transformers import PreTrainedModel

from isentropic.checks import nearest
from isentropic.config import LoraConfig
from isentropic.seeds import hash_seed

ADAPTER = "default"  # peft's name of the only one
BASE = ".base_layer"  # what peft puts into the name of a layer that it wraps
ALL = "all"


class Adapter(NamedTuple):
    """What is added to a weight W: scale * up @ down."""

    down: Tensor  # A [rank, in]
    up: Tensor  # B [out, rank]
    scale: float


def merge(weight: Tensor, adapter: Adapter) -> Tensor:
    """Returns W + scale * B A [out, in], rounded once."""
    return torch.addmm(weight, adapter.up, adapter.down, alpha=adapter.scale)


class MergedLinear(peft_lora.Linear):
    """peft's LoRA layer, whose forward multiplies by the merged weight.

    `is_on` false: by the frozen weight.
    """

    is_on = True

    @property
    def adapter(self) -> Adapter:
        """The live adapter; its tensors are shards between forward passes."""
        return Adapter(
            self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight, self.scaling[ADAPTER]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Multiplies x [..., in] by the merged weight; returns [..., out]."""
        base = self.get_base_layer()
        if not self.is_on:
            return base(x)
        return _Product.apply(x, base.weight, base.bias, *self.adapter)


class _Product(torch.autograd.Function):
    """x (W + scale B A)^T + bias, with gradients of x, A and B.

    Autograd would keep each merged matrix until the backward pass, and there make W's gradient, as
    large as W, to get A's and B's from it. Here the matrix is made again, and both gradients go
    through `rank` columns.
    """

    @staticmethod
    def forward(ctx: Any, x, weight, bias, down, up, scale):
        ctx.save_for_backward(x, weight, down, up)
        ctx.scale = scale
        return linear(x, merge(weight, Adapter(down, up, scale)), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient):
        x, weight, down, up = ctx.saved_tensors
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = gradient @ merge(weight, Adapter(down, up, ctx.scale))
        x = x.flatten(0, -2)
        gradient = gradient.flatten(0, -2)
        of_down = ctx.scale * ((gradient @ up).T @ x)
        of_up = ctx.scale * (gradient.T @ (x @ down.T))
        return of_x, None, None, of_down, of_up, None


def add_adapters(lm: PreTrainedModel, lora: LoraConfig) -> None:
    """Wraps the targets in place and freezes all else; `fill_adapters` gives the adapters values.

    Raises ValueError if the targets or the rank do not fit the model.
    """
    config = PeftConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(target_layers(lm, lora)),
        init_lora_weights=False,
    )
    config._register_custom_module({nn.Linear: MergedLinear})
    lm.requires_grad_(False)
    inject_adapter_in_model(config, lm)


def target_layers(lm: PreTrainedModel, lora: LoraConfig) -> dict[str, nn.Linear]:
    """Maps the full names of the decoder's layers that get an adapter to the layers.

    Raises:
        ValueError: a target is no linear layer of the decoder, or the rank is above a layer's size.
    """
    layers = lm.get_decoder().layers
    inside = {id(module) for module in layers.modules() if isinstance(module, nn.Linear)}
    linear_layers = {name: module for name, module in lm.named_modules() if id(module) in inside}
    kinds = dict.fromkeys(name.rpartition(".")[2] for name in linear_layers)
    chosen = kinds if lora.targets == (ALL,) else lora.targets
    for target in chosen:
        if not any(_ends_with(name, target) for name in linear_layers):
            raise ValueError(
                f"learner.lora.targets names {target!r}, which is no linear layer in the decoder's "
                f"layers of this {lm.config.model_type} model. It has {', '.join(kinds) or 'none'};"
                f" [{ALL}] means all of them.{nearest(target, kinds)}"
            )
    found = {
        name: layer
        for name, layer in linear_layers.items()
        if any(_ends_with(name, target) for target in chosen)
    }
    for name, layer in found.items():
        if lora.rank > min(layer.weight.shape):
            raise ValueError(
                f"learner.lora.rank={lora.rank} is above {min(layer.weight.shape)}, the smaller "
                f"side of {name} {list(layer.weight.shape)}: the adapter would be larger than what "
                "it can express. Use a lower rank or leave that target out."
            )
    return found


def count_adapter_parameters(lm: PreTrainedModel, lora: LoraConfig) -> int:
    """Counts what would be trained. Raises ValueError as `target_layers`."""
    return sum(lora.rank * sum(layer.weight.shape) for layer in target_layers(lm, lora).values())


@torch.no_grad()
def fill_adapters(lm: PreTrainedModel) -> None:
    """Draws every A as peft does, and sets every B to 0: the policy is the frozen model's.

    A depends on the layer's name only, as the weights of a model do on its files: on any number of
    ranks, in every run.
    """
    for name, layer in _adapted(lm):
        down, up, _ = layer.adapter
        generator = torch.Generator().manual_seed(hash_seed("lora", name))
        whole = torch.empty(down.shape)
        nn.init.kaiming_uniform_(whole, a=math.sqrt(5), generator=generator)
        if isinstance(down, DTensor):
            whole = distribute_tensor(
                whole.to(down.device), down.device_mesh, down.placements, src_data_rank=None
            )
        down.copy_(whole)
        up.zero_()
        # transformers leaves such a tensor alone when it initialises what was not loaded.
        down._is_hf_initialized = up._is_hf_initialized = True


@contextmanager
def adapters_off(lm: nn.Module) -> Iterator[None]:
    """Makes it the frozen model in the meantime."""
    layers = [layer for _, layer in _adapted(lm)]
    for layer in layers:
        layer.is_on = False
    try:
        yield
    finally:
        for layer in layers:
            layer.is_on = True


def weights_and_adapters(lm: nn.Module) -> Iterator[tuple[str, Tensor, Adapter | None]]:
    """Yields (Hugging Face name, weight, its adapter) per parameter of the model, tied ones once."""
    adapters = {f"{name}.weight": layer.adapter for name, layer in _adapted(lm)}
    for name, parameter in lm.named_parameters():
        stored = stored_name(name)
        if stored is not None:
            yield stored, parameter, adapters.get(stored)


def stored_name(name: str) -> str | None:
    """Returns a tensor's name in the model's files; None if it is of an adapter."""
    if ".lora_A." in name or ".lora_B." in name:
        return None
    return name.replace(f"{BASE}.", ".")


def _adapted(lm: nn.Module) -> Iterator[tuple[str, MergedLinear]]:
    # FSDP gives a module it wraps a class of its own, which is a subclass.
    for name, module in lm.named_modules():
        if isinstance(module, MergedLinear):
            yield name, module


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
