"""Clip_B and Clip_V: who is dropped, and what that does to the others' slopes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isentropic.objectives.clip import ClipConfig
from isentropic.objectives.over.entropy_mask import ClipBConfig, ClipVConfig, clip_b, clip_v

WIDE = {"clip_low": None, "clip_high": None}
ALL = {"denominator": "all", **WIDE}


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


def v(at, change, advantage, **settings):
    """Slopes and dropped tokens by D = -S."""
    settings = {"share": 1.0, **ALL, **settings}
    ratios = [1.0] * len(change)
    _, slopes, metrics = at(clip_v, ratios, advantage, sensitivity=-doubles(change), **settings)
    return slopes, metrics["entropy_mask/frac"]


@pytest.mark.parametrize(
    ("spread", "dropped"),
    [pytest.param(2.0, 1, id="4 > 2 * 1.732"), pytest.param(2.5, 0, id="4 < 2.5 * 1.732")],
)
def test_clip_v_by_the_deviation(spread, dropped, at):
    slopes, mask = v(at, [0.0, 0.0, 0.0, 4.0], [-1.0] * 4, spread=spread)
    assert mask == [0, 0, 0, dropped] and slopes == [1, 1, 1, 1 - dropped]


def test_clip_v_is_one_sided_and_not_centred(at):
    """std is 5: neither the rewarded token of the same D nor the punished one of -D is dropped."""
    change, advantage = [5.0, 5.0, -5.0, -5.0], [-1.0, 1.0, -1.0, 1.0]
    assert v(at, change, advantage, spread=0.9)[1] == [1, 0, 0, 0]
    centred_would_drop_nothing = [5.0, 5.0, 5.0, 4.0]  # mean 4.75, std 0.433
    assert v(at, centred_would_drop_nothing, [-1.0] * 4, spread=3)[1] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("share", "mask"),
    [
        pytest.param(1e-4, [0, 1, 0, 0], id="at least one: the largest"),
        pytest.param(0.5, [0, 1, 1, 0], id="half: the two largest"),
        pytest.param(1.0, [1, 1, 1, 0], id="all that exceed"),
    ],
)
def test_clip_v_drops_no_more_than_its_share(share, mask, at):
    assert v(at, [3.0, 5.0, 4.0, 1.0], [-1.0] * 4, spread=1.0, share=share)[1] == mask


def b(at, p, entropy, advantage, **settings):
    p, ratios = doubles(p), [1.0] * len(p)
    inputs = {"logprob": p.log(), "entropy": doubles(entropy), **ALL, **settings}
    _, slopes, metrics = at(clip_b, ratios, advantage, **inputs)
    return slopes, metrics["entropy_mask/frac"]


def test_clip_b_by_the_distance_from_the_mean(at):
    """s = p (log p + H): three at 0 and one at -1; mean -0.25, std 0.4330, distance 1.732 std."""
    p, entropy = [0.5] * 4, [math.log(2)] * 3 + [math.log(2) - 2]
    assert b(at, p, entropy, [-1.0] * 4, spread=1.7) == ([1, 1, 1, 0], [0, 0, 0, 1])
    assert b(at, p, entropy, [-1.0] * 4, spread=1.8)[1] == [0, 0, 0, 0]
    assert b(at, p, entropy, [-1.0, -1, -1, 1], spread=1.7)[1] == [0, 0, 0, 0]
    mirrored = [math.log(2)] * 3 + [math.log(2) + 2]
    assert b(at, p, mirrored, [-1.0] * 4, spread=1.7)[1] == [0, 0, 0, 0]


def test_a_mean_over_what_is_left(at):
    slopes, _ = v(at, [0.0, 0.0, 0.0, 4.0], [-1.0] * 4, spread=2.0, denominator="kept")
    assert slopes == [4 / 3, 4 / 3, 4 / 3, 0]


@pytest.mark.parametrize("values", [[0.3] * 4, [0.3 + 1e-13, 0.3, 0.3, 0.3]])
def test_without_spread_all_are_kept(values, at):
    assert v(at, values, [-1.0] * 4, spread=0.1)[1] == [0] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(st.floats(-2.0, 2.0, width=32), st.integers(1, 40), st.sampled_from([0.01, 2.5, 8.5]))
def test_equal_tokens_are_all_kept_in_any_precision(dtype, value, count, spread):
    """In float32 the mean of 7 times 0.3 is not 0.3, and a deviation from it is 1e-8."""
    one, equal = torch.ones(count, dtype=dtype), torch.full((count,), value, dtype=dtype)
    for rule, inputs in (
        (clip_v, {"sensitivity": equal, "share": 1.0}),
        (clip_b, {"logprob": -equal.abs(), "entropy": equal.abs()}),
    ):
        result = rule(0 * one, -one, spread=spread, **inputs, **ALL)
        assert not result.metrics["entropy_mask/frac"].any()
        assert result.loss.dtype == dtype


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (ClipBConfig, {"spread": 0}, "objective.spread"),
        (ClipBConfig, {"denominator": "some"}, "objective.denominator"),
        (ClipVConfig, {"share": 2.0}, "objective.share"),
    ],
)
def test_bad_settings(config, changes, message):
    base = ClipConfig(name="clip", ratio="token", clip_low=0.2, clip_high=0.2, dual_clip=None)
    values = {"name": "x", "ratio": "token", "base": base, "spread": 2.5, "denominator": "kept"}
    values |= {"share": 1e-4} if config is ClipVConfig else {}
    config(**values)
    with pytest.raises(ValueError, match=message):
        config(**{**values, **changes})
