"""Loss and slope are -A, whatever the ratio."""

import torch

from isentropic.objectives import reinforce


def test_loss_and_gradient(at):
    log_ratio = torch.tensor([0.0, 1.0, -200.0, 200.0], dtype=torch.float64)
    loss, slope, metrics = at(reinforce, log_ratio, [2.0, -1.0, 3.0, -4.0])
    assert loss == slope == [-2.0, 1.0, -3.0, 4.0]
    assert metrics["ratio"][0] == 1.0
