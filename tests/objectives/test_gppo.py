"""Slopes of GPPO: spot values of the bound where PPO has 0."""

import pytest

from isentropic.objectives import gppo


@pytest.mark.parametrize(
    ("ratio", "positive", "negative"),
    [(0.5, 0.5, -0.8), (1.0, 1.0, -1.0), (1.5, 1.28, -1.5), (4.0, 1.28, -4.0)],
)
def test_spot_values(at, close, ratio, positive, negative):
    _, slope, _ = at(gppo, [ratio, ratio], [1.0, -1.0], clip_low=0.2, clip_high=0.28)
    assert slope == close([-positive, -negative])


def test_dual_clip(at, close):
    _, slope, _ = at(gppo, [4.0, 2.0], [-1.0, -1.0], clip_low=0.2, clip_high=0.28, dual_clip=3.0)
    assert slope == close([0.0, 2.0])
