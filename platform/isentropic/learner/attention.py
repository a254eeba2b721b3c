"""Attention over packed sequences: a token sees only its own sequence; no mask, no padding."""

from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "isentropic_varlen"  # in transformers' registry


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
    if cu_seq_lens_q is None:
        raise ValueError(
            f"{type(module).__name__} does not hand cu_seq_lens_q on to its attention, so packed "
            "sequences would see each other. Choose an architecture that does, such as Llama, "
            "Qwen2 or Qwen3."
        )
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise ValueError(
                f"{type(module).__name__} uses {name} in its attention, which is not supported "
                "here. Choose a model without it."
            )
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        heads_last = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        out = varlen_attn(
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
        return out[None], None
    if query.is_cuda:
        key, value = repeat_heads(query, key), repeat_heads(query, value)
    out = _by_length(query[0], key[0], value[0], cu_seq_lens_q, scaling, sliding_window)
    return out[None], None


def repeat_heads(query: Tensor, shared: Tensor) -> Tensor:
    """Repeats heads of keys or values [1, H_kv, T, D] until there are as many as of queries.

    In float32 on a GPU, the kernel that takes shared heads writes all scores: 30 GB at 16k tokens
    and 28 heads. The one that does not needs a head for each.
    """
    times = query.size(1) // shared.size(1)
    return shared if times == 1 else shared.repeat_interleave(times, dim=1)


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
    parts = []
    start = 0
    for length, run in groupby(end - begin for begin, end in pairwise(bounds.tolist())):
        count = len(list(run))
        stop = start + count * length
        mask = _window(length, sliding_window, query.device)
        out = scaled_dot_product_attention(
            *(
                tensor[:, start:stop].unflatten(1, (count, length)).transpose(0, 1)
                for tensor in (query, key, value)
            ),
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=query.size(0) != key.size(0),
        )
        parts.append(out.transpose(1, 2).flatten(0, 1))
        start = stop
    return torch.cat(parts)


def _window(length: int, sliding_window: int | None, device: torch.device) -> Tensor | None:
    """Makes a mask [L, L], True where a token sees another; None if the window sees everything."""
    if sliding_window is None or length <= sliding_window:
        return None
    every = torch.ones(length, length, dtype=torch.bool, device=device)
    return every.tril() & every.triu(1 - sliding_window)
