"""The target curve at the steps of the published tables, and edges that make no sense."""

import math

import pytest

from isentropic.methods.control.band import Band


def ramp(start, end, kind="linear", steps=100):
    """From step 1, k = 0, to k = `steps`."""
    return {"kind": kind, "from_step": 1, "to_step": steps + 1, "start": start, "end": end}


@pytest.mark.parametrize(
    ("kind", "k", "edges"),
    [
        ("linear", 0, (0.6, 0.7)),
        ("linear", 20, (0.5, 0.6)),
        ("linear", 60, (0.3, 0.4)),
        ("linear", 100, (0.1, 0.2)),
        ("linear", 500, (0.1, 0.2)),
        ("cosine", 25, (0.5267767, 0.6267767)),  # progress (1 - cos(pi / 4)) / 2 = 0.1464466
    ],
)
def test_edges(kind, k, edges):
    band = Band(low=ramp(0.6, 0.1, kind), high=ramp(0.7, 0.2, kind))
    assert band.at(k + 1) == pytest.approx(edges, abs=5e-8)


@pytest.mark.parametrize(
    ("entropy", "side"),
    [(0.71, 1), (0.7, 0), (0.65, 0), (0.6, 0), (0.59, -1), (math.nan, 0)],
)
def test_side(entropy, side):
    assert Band(low=0.6, high=0.7).side(1, entropy) == side


def test_without_edges_nothing_is_outside():
    band = Band(low=None, high=None)
    assert band.side(1, 9.0) == band.side(1, 0.0) == 0
    assert Band(low=0.0, high=None).side(1, 0.0) == 0


def test_a_band_that_turns_over_is_refused():
    with pytest.raises(ValueError, match=r"steering.low is 0.6 and steering.high is 0.5 at step 1"):
        Band(low=0.6, high=0.5).check("steering")
    with pytest.raises(ValueError, match="at step 101"):
        Band(low=0.3, high=ramp(0.7, 0.2)).check("steering")
    Band(low=0.2, high=ramp(0.7, 0.2)).check("steering")
    with pytest.raises(ValueError, match=r"steering.low must be >= 0"):
        Band(low=-1, high=0.5).check("steering")
