"""A shared way to ask an objective for loss and slope at given ratios, in float64."""

import math

import pytest
import torch


@pytest.fixture
def at():
    def evaluate(objective, ratios, advantages, **inputs):
        """(loss, d loss / d log_ratio, metrics) as lists; `ratios` may be a log_ratio tensor instead."""
        if not isinstance(ratios, torch.Tensor):
            ratios = torch.tensor([math.log(ratio) for ratio in ratios], dtype=torch.float64)
        log_ratio = ratios.clone().requires_grad_()
        result = objective(log_ratio, torch.tensor(advantages, dtype=torch.float64), **inputs)
        (slope,) = torch.autograd.grad(result.loss.sum(), log_ratio, allow_unused=True)
        slope = torch.zeros_like(ratios) if slope is None else slope
        metrics = {name: value.tolist() for name, value in result.metrics.items()}
        return result.loss.tolist(), slope.tolist(), metrics

    return evaluate


@pytest.fixture
def close():
    return lambda values: pytest.approx(values, rel=1e-12, abs=1e-14)
