"""Teacher tokens with a shaped probability instead of a ratio: what LUFFY does, and one reading of OGER."""

import torch
from torch import Tensor

from isentropic.objectives.token_loss import TokenLoss


def shaped_offline(
    online: TokenLoss, *, logprob: Tensor, advantage: Tensor, is_teacher: Tensor, shape: float
) -> TokenLoss:
    """Policy shaping on teacher tokens (LUFFY, arXiv:2504.14945), any objective on the others.

        loss_t = -p / (p + shape) * A_t    on teacher tokens, p = exp(logprob_t)
        loss_t = online loss_t             elsewhere

    No ratio and no clip on teacher tokens. Their weight on grad log pi is shape * p / (p + shape)^2 * A, largest at
    p = shape, so that tokens which the policy finds unlikely are still learned.

    Args:
        online: the objective's loss and metrics [N] on all tokens.
        logprob: [N] nats under the current weights; carries the gradient.
        advantage: [N] in reward units, no gradient.
        is_teacher: [N] bool.
        shape: > 0; 0.1 in LUFFY.
    """
    p = logprob.exp()
    shaped = -(p / (p + shape)) * advantage
    metrics = {
        name: torch.where(is_teacher, torch.zeros_like(values), values) if name.startswith("clip/") else values
        for name, values in online.metrics.items()
    }
    return TokenLoss(torch.where(is_teacher, shaped, online.loss), metrics)
