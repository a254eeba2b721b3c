"""Slope -4 s (1 - s) r A with s = sigmoid(tau (r - 1)); spot values to four digits."""

import math

import pytest
import torch

from isentropic.objectives import sapo

TAU = {"tau_pos": 1.0, "tau_neg": 1.05}


@pytest.mark.parametrize(
    ("ratio", "positive", "negative"),
    [(0.5, 0.4700, -0.4671), (1.0, 1.0, -1.0), (1.5, 1.4100, -1.4012), (4.0, 0.7228, -0.6304)],
)
def test_spot_values(at, ratio, positive, negative):
    _, slope, _ = at(sapo, [ratio, ratio], [1.0, -1.0], **TAU)
    assert slope == pytest.approx([-positive, -negative], abs=5e-5)


def test_closed_form(at, close):
    """At r = 2, tau = 1: s = 1 / (1 + e^-1)."""
    s, n = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-1.05))
    loss, slope, _ = at(sapo, [2.0, 2.0, 2.0], [3.0, -3.0, 0.0], **TAU)
    assert loss == close([-4 * s * 3, 4 / 1.05 * n * 3, 0.0])
    assert slope == close([-4 * s * (1 - s) * 2 * 3, 4 * n * (1 - n) * 2 * 3, 0.0])


def test_extreme_ratios_are_silent(at):
    loss, slope, _ = at(
        sapo, torch.tensor([200.0, -200.0], dtype=torch.float64), [1.0, -1.0], **TAU
    )
    assert slope == [0.0, 0.0] and all(math.isfinite(value) for value in loss)
