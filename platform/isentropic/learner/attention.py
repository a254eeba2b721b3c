"""Attention over packed sequences, without mask or padding; and which models it is enough for."""

from collections.abc import Mapping
from contextvars import ContextVar
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from isentropic.learner.context_parallel import enough_heads, trade

NAME = "isentropic_varlen"  # in transformers' registry
PROBE = "isentropic_probe"  # same; notes what calls it, and computes nothing
COMPUTED = {"full_attention", "sliding_attention"}  # of a config's layer_types
ADVICE = "Choose an architecture that can be packed, such as Llama, Qwen2 or Qwen3."


def register() -> None:
    """Makes `attn_implementation=NAME` known to transformers; calling it again changes nothing."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Computes causal attention inside each packed sequence; transformers calls it.

    On a GPU in half precision one flash kernel takes all sequences; elsewhere sequences of one
    length, which `batching` puts side by side, go through SDPA together.

    In a module with a `context_group` of n ranks (`context_parallel`) the tensors hold this rank's
    T / n tokens. They are traded for all tokens of H / n heads, and the result is traded back.

    Args:
        query: [1, H, T, D]; key, value: [1, H_kv, T, D].
        cu_seq_lens_q: [S + 1] int32, boundaries of the sequences.
        max_length_q: tokens of the longest sequence.

    Returns:
        [1, T, H, D], and no attention weights.

    Raises:
        ValueError: if the model does not say where its sequences end, or uses something that is
            not computed here.
    """
    _check_call(module, kwargs | {"cu_seq_lens_q": cu_seq_lens_q})
    group: dist.ProcessGroup | None = getattr(module, "context_group", None)
    if group is not None:
        query = trade(query[0], group)[None]
        key, value = (
            trade(enough_heads(tensor[0], group.size()), group)[None] for tensor in (key, value)
        )
    out = _attend(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window)
    return (out if group is None else trade(out, group))[None], None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_lens_q: Tensor,
    max_length_q: int | None,
    scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    """Attends, [1, H, T, D] to [T, H, D], by the kernel that the device has."""
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        heads_last = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        return varlen_attn(
            *heads_last,
            cu_seq_lens_q,
            cu_seq_lens_q,
            max_length_q,
            max_length_q,
            scale=scaling,
            # (-1, 0) is causal; (w, 0) sees w tokens before the token itself, which transformers'
            # window counts too.
            window_size=(-1, 0) if sliding_window is None else (sliding_window - 1, 0),
            enable_gqa=bool(query.size(1) != key.size(1)),  # in a compiled layer it is no bool
        )
    if query.is_cuda:
        key, value = repeat_heads(query, key), repeat_heads(query, value)
    return _by_length(query[0], key[0], value[0], cu_seq_lens_q, scaling, sliding_window)


def repeat_heads(query: Tensor, shared: Tensor) -> Tensor:
    """Repeats heads of keys or values [1, H_kv, T, D] until there are as many as of queries.

    In float32 on a GPU, the kernel that takes shared heads writes all scores: 30 GB at 16k tokens
    and 28 heads. The one that does not needs a head for each.
    """
    times = query.size(1) // shared.size(1)
    return shared if times == 1 else shared.repeat_interleave(times, dim=1)


class Call(NamedTuple):
    """One call of the attention that PROBE stands for."""

    module: nn.Module
    arguments: dict[str, Any]


# Of the model that this thread looks at: a sweep may look at several at once.
_CALLS: ContextVar[list[Call]] = ContextVar("calls of the attention interface")


def register_probe() -> list[Call]:
    """Makes `attn_implementation=PROBE` known to transformers; returns this thread's calls of it."""
    AttentionInterface.register(PROBE, _note)
    AttentionMaskInterface.register(PROBE, lambda *args, **kwargs: None)
    calls: list[Call] = []
    _CALLS.set(calls)
    return calls


def _note(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **arguments: Any
) -> tuple[Tensor, None]:
    _CALLS.get().append(Call(module, arguments))
    batch, heads, tokens, _ = query.shape
    return query.new_empty(batch, tokens, heads, value.shape[-1]), None


def check_packing(lm: PreTrainedModel, calls: list[Call]) -> None:
    """Refuses a model in which packed sequences would see each other, or more than they should.

    Only attention keeps them apart here: every layer has to mix tokens by a call of the attention
    interface, with the sequences' boundaries, and by nothing else. State-space models, linear
    attention and convolutions run through the whole pack.

    Args:
        lm: on the meta device, made with `attn_implementation=PROBE`; a decoder with `layers`.
        calls: of `register_probe`, still empty.

    Raises:
        ValueError: names the architecture and the layer.
    """
    name = type(lm).__name__
    decoder = lm.get_decoder()
    kinds = getattr(decoder.config, "layer_types", None) or []
    foreign = sorted(set(kinds) - COMPUTED)
    convolutions = [module for module in decoder.layers.modules() if isinstance(module, nn.Conv1d)]
    if lm._is_stateful or foreign or convolutions:
        found = ", ".join(foreign) or ("convolutions" if convolutions else "a recurrent state")
        raise ValueError(
            f"{name} mixes tokens by more than causal attention ({found}), so that packed sequences "
            f"would see each other. {ADVICE}"
        )
    try:
        _run_on_meta(decoder)
    except Exception:
        # Code that needs values: the ranks, which have weights, check each call themselves.
        return
    for number, layer in enumerate(decoder.layers):
        inside = set(layer.modules())
        own = [call for call in calls if call.module in inside]
        if not own:
            raise ValueError(
                f"{name} does not call transformers' attention interface in layer {number}, so that "
                f"packed sequences would see each other. {ADVICE}"
            )
        for module, arguments in own:
            _check_call(module, arguments)
            sliding = bool(kinds) and kinds[number] == "sliding_attention"
            if sliding and arguments.get("sliding_window") is None:
                raise ValueError(
                    f"{name} does not hand the window of layer {number} on to its attention, which "
                    f"would see everything. {ADVICE}"
                )


def _run_on_meta(decoder: nn.Module) -> None:
    """Calls the decoder as `PackedModel` does, with shapes only."""
    ids = torch.zeros(1, 4, dtype=torch.int64, device="meta")
    bounds = torch.zeros(3, dtype=torch.int32, device="meta")
    decoder(
        input_ids=ids,
        position_ids=ids,
        # Without it transformers would look for the sequences in the values of position_ids.
        attention_mask=ids,
        use_cache=False,
        cu_seq_lens_q=bounds,
        cu_seq_lens_k=bounds,
        max_length_q=2,
        max_length_k=2,
    )


def _check_call(module: nn.Module, arguments: Mapping[str, Any]) -> None:
    """Raises ValueError if a module's attention cannot be computed on packed sequences."""
    name = type(module).__name__
    if arguments.get("cu_seq_lens_q") is None:
        raise ValueError(
            f"{name} does not hand cu_seq_lens_q on to its attention, so packed sequences would see "
            f"each other. {ADVICE}"
        )
    for extra in ("softcap", "s_aux", "position_bias"):
        if arguments.get(extra) is not None:
            raise ValueError(
                f"{name} uses {extra} in its attention, which is not supported here. Choose a "
                "model without it."
            )


@torch.compiler.disable  # its loop follows the data
def _by_length(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    """Attends, [H, T, D] to [T, H, D], in one SDPA call per run of sequences of one length."""
    runs = [
        (length, len(list(run)))
        for length, run in groupby(end - begin for begin, end in pairwise(bounds.tolist()))
    ]
    sizes = [length * count for length, count in runs]
    # One split of each, whose gradient is one concatenation: that of a slice is as long as the pack.
    split = (tensor.split(sizes, dim=1) for tensor in (query, key, value))
    parts = []
    for (length, count), *tensors in zip(runs, *split, strict=True):
        mask = _window(length, sliding_window, query.device)
        out = scaled_dot_product_attention(
            *(tensor.unflatten(1, (count, length)).transpose(0, 1) for tensor in tensors),
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=query.size(0) != key.size(0),
        )
        parts.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


def _window(length: int, sliding_window: int | None, device: torch.device) -> Tensor | None:
    """Makes a mask [L, L], True where a token sees another; None if the window sees everything."""
    if sliding_window is None or length <= sliding_window:
        return None
    every = torch.ones(length, length, dtype=torch.bool, device=device)
    return every.tril() & every.triu(1 - sliding_window)
