"""REINFORCE: the plain policy gradient, without ratio or clip."""

from dataclasses import dataclass

from torch import Tensor

from isentropic.objectives.loss import ObjectiveConfig, TokenLoss, bounded_exp, unit_slope


def reinforce(log_ratio: Tensor, advantage: Tensor) -> TokenLoss:
    """Policy gradient (Williams 1992): each token is pulled by its advantage, whatever its ratio.

        loss_t = -A_t * r_t / sg(r_t)           d loss_t / d log_ratio_t = -A_t

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient.
        advantage: [N] in reward units, no gradient.
    """
    loss = -(unit_slope(log_ratio) * advantage)
    return TokenLoss(loss, {"ratio": bounded_exp(log_ratio.detach())})


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig(ObjectiveConfig):
    """`objectives.reinforce` has no coefficient."""

    function = staticmethod(reinforce)
