"""Packed attention gives each sequence what it would get alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isentropic.learner.attention import packed_attention, repeat_heads


def alone(query, key, value, window):
    """Attends within one sequence [H, L, D] by the definition.

    Query heads share key heads in blocks.
    """
    key, value = (
        tensor.repeat_interleave(query.size(0) // key.size(0), dim=0) for tensor in (key, value)
    )
    scores = query @ key.transpose(1, 2) * 0.3
    distance = torch.arange(query.size(1))[:, None] - torch.arange(query.size(1))
    hidden = (distance < 0) | (distance >= (window or 10**6))
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=8),
    st.sampled_from([None, 2, 4]),
    st.booleans(),
)
def test_each_sequence_sees_itself_alone(lengths, window, ordered):
    lengths = sorted(lengths) if ordered else lengths
    generator = torch.Generator().manual_seed(sum(lengths))
    query, key, value = (
        torch.randn(1, heads, sum(lengths), 8, dtype=torch.float64, generator=generator)
        for heads in (4, 2, 2)
    )
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    found, _ = packed_attention(
        nn.Identity(),
        query,
        key,
        value,
        None,
        scaling=0.3,
        sliding_window=window,
        cu_seq_lens_q=bounds,
    )
    parts = zip(*(tensor[0].split(lengths, dim=1) for tensor in (query, key, value)), strict=True)
    expected = torch.cat([alone(*part, window) for part in parts], dim=1).transpose(0, 1)
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({}, "does not hand cu_seq_lens_q on", id="a model that drops the boundaries"),
        pytest.param(
            {"cu_seq_lens_q": torch.tensor([0, 2]), "softcap": 30.0},
            "uses softcap",
            id="a capped score",
        ),
    ],
)
def test_what_would_be_wrong_in_silence_is_refused(options, message):
    tensors = [torch.zeros(1, 1, 2, 4)] * 3
    with pytest.raises(ValueError, match=message):
        packed_attention(nn.Identity(), *tensors, None, **options)


def test_repeated_heads_are_the_shared_ones():
    """What float32 on a GPU does, for want of a kernel that takes shared heads, changes nothing."""
    query, key, value = (torch.randn(1, heads, 6, 8, dtype=torch.float64) for heads in (4, 2, 2))
    bounds = {"cu_seq_lens_q": torch.tensor([0, 2, 6], dtype=torch.int32), "max_length_q": 4}
    shared, _ = packed_attention(nn.Identity(), query, key, value, None, **bounds)
    key, value = repeat_heads(query, key), repeat_heads(query, value)
    assert key.shape == value.shape == query.shape
    repeated, _ = packed_attention(nn.Identity(), query, key, value, None, **bounds)
    torch.testing.assert_close(repeated, shared)
