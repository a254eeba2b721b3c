"""Weights of TIS, IcePop and masks for token ratios 0.25, 4 | 1, 1 and a sequence that no engine sampled."""

import math

import pytest
import torch

from isentropic.objectives.tokens.mismatch import (
    TOKEN_WEIGHTS,
    MaskedWeight,
    NoTokenWeight,
    TruncatedWeight,
)

ROLLOUT = torch.tensor([-2.0, -2.0, -1.0, -1.0, math.nan], dtype=torch.float64)
OLD = torch.tensor(
    [math.log(0.25) - 2, math.log(4) - 2, -1.0, math.log(8) - 1, -3.0], dtype=torch.float64
)
ID = torch.tensor(
    [0, 0, 1, 1, 2]
)  # ratios .25, 4 | 1, 8 | none; products 1, 8, 1; geometric means 1, sqrt 8, 1


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (NoTokenWeight(name="none"), [1, 1, 1, 1, 1]),
        (TruncatedWeight(name="truncated", level="token", cap=2.0), [0.25, 2, 1, 2, 1]),
        (TruncatedWeight(name="truncated", level="sequence", cap=2.0), [1, 1, 2, 2, 1]),
        (
            MaskedWeight(name="masked", level="token", low=0.5, high=5.0, keep_ratio=True),
            [0, 4, 1, 0, 1],
        ),
        (
            MaskedWeight(name="masked", level="token", low=0.0, high=5.0, keep_ratio=False),
            [1, 1, 1, 0, 1],
        ),
        (
            MaskedWeight(name="masked", level="sequence", low=0.0, high=3.0, keep_ratio=True),
            [1, 1, 0, 0, 1],
        ),
        (
            MaskedWeight(name="masked", level="geometric", low=0.999, high=1.001, keep_ratio=False),
            [1, 1, 0, 0, 1],
        ),
    ],
)
def test_weights(close, config, wanted):
    result = config.weigh(OLD, ROLLOUT, ID)
    assert result.weight.tolist() == close(wanted)
    assert all(value.shape == (5,) for value in result.metrics.values())
    assert TOKEN_WEIGHTS[config.name] is type(config)


def test_corrected_tokens_are_counted():
    result = TruncatedWeight(name="truncated", level="token", cap=2.0).weigh(OLD, ROLLOUT, ID)
    assert result.metrics["mismatch/corrected_frac"].tolist() == [0, 1, 0, 1, 0]


def test_exactly_on_a_bound_is_inside(close):
    old, rollout, ids = torch.tensor([-1.0]), torch.tensor([-1.0]), torch.tensor([0])
    assert MaskedWeight(name="masked", level="token", low=1.0, high=1.0, keep_ratio=True).weigh(
        old, rollout, ids
    ).weight.tolist() == [1.0]


def test_log_weights_are_summed_before_they_are_clamped(close):
    """+30 and -29 make +1; each clamped alone they would cancel."""
    old = torch.tensor([30.0, -29.0, -200.0], dtype=torch.float64)
    config = TruncatedWeight(name="truncated", level="sequence", cap=1e12)
    got = config.weigh(old, torch.zeros(3, dtype=torch.float64), torch.tensor([0, 0, 1])).weight
    assert got.tolist() == close([math.e, math.e, math.exp(-20)])


def test_refused():
    with pytest.raises(
        ValueError, match=r"token_weight.level must be one of token, sequence; got 'word'"
    ):
        TruncatedWeight(name="truncated", level="word", cap=2.0)
    with pytest.raises(ValueError, match=r"token_weight.low must be >= 0 and <= 1, got 2"):
        MaskedWeight(name="masked", level="token", low=2, high=3.0, keep_ratio=True)
