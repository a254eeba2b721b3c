"""Sums and means over the tokens of one sequence, and the sequence ratio of GSPO."""

import torch
from torch import Tensor

from isentropic.objectives.loss.token_loss import no_value


def sequence_sum(values: Tensor, sequence_id: Tensor) -> Tensor:
    """[S] sums of `values` [N] over the tokens of each sequence; S is the largest id + 1."""
    sequences = int(sequence_id.max()) + 1 if sequence_id.numel() else 0
    return values.new_zeros(sequences).index_add(0, sequence_id, values)


def sequence_mean(values: Tensor, sequence_id: Tensor) -> Tensor:
    """[S] means of `values` [N] over the tokens of each sequence; 0 for an id without tokens."""
    count = sequence_sum(torch.ones_like(values), sequence_id)
    return sequence_sum(values, sequence_id) / count.clamp(min=1)


def sequence_log_ratio(log_ratio: Tensor, sequence_id: Tensor) -> Tensor:
    """Take the log of GSPO's ratio in its token form (arXiv:2507.18071).

    The value is the sequence's, the gradient is the token's own:

        s_i  = exp(mean over t of log_ratio_it)
        s_it = sg(s_i) * p_it / sg(p_it)

    With one advantage per response, the mean over t of the gradient of s_it is that of s_i; with
    token advantages each token keeps its own.

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient.
        sequence_id: [N] int64, the sequence each token belongs to, from 0.
    """
    with torch.no_grad():
        mean = sequence_mean(log_ratio, sequence_id)[sequence_id]
    return mean + no_value(log_ratio)
