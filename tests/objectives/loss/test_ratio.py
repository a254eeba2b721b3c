"""Sums, means and the sequence ratio."""

import torch

from isentropic.objectives.loss.ratio import sequence_log_ratio, sequence_mean, sequence_sum

ID = torch.tensor([1, 0, 1, 3])
VALUES = torch.tensor([1.0, 2.0, 5.0, -4.0], dtype=torch.float64)


def test_sums_and_means_over_sequences():
    assert sequence_sum(VALUES, ID).tolist() == [2.0, 6.0, 0.0, -4.0]
    assert sequence_mean(VALUES, ID).tolist() == [2.0, 3.0, 0.0, -4.0]
    assert sequence_mean(VALUES[:0], ID[:0]).tolist() == []


def test_value_of_the_sequence_gradient_of_the_token():
    log_ratio = VALUES.clone().requires_grad_()
    result = sequence_log_ratio(log_ratio, ID)
    assert result.tolist() == [3.0, 2.0, 3.0, -4.0]
    (result * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert log_ratio.grad.tolist() == [1.0, 2.0, 3.0, 4.0]
