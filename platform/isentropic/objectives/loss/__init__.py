"""What an objective is made of: its config's base class, its result, checks and shared pieces."""

from isentropic.objectives.loss.objective import (
    ObjectiveConfig,
    check_clip,
    check_dual_clip,
    lower_bound,
    upper_bound,
)
from isentropic.objectives.loss.schedule import check_coefficient, lowest, resolve
from isentropic.objectives.loss.token_loss import (
    TokenLoss,
    above,
    below,
    bounded_exp,
    clip_metrics,
    no_value,
    unit_slope,
)

__all__ = [
    "ObjectiveConfig",
    "TokenLoss",
    "above",
    "below",
    "bounded_exp",
    "check_clip",
    "check_coefficient",
    "check_dual_clip",
    "clip_metrics",
    "lower_bound",
    "lowest",
    "no_value",
    "resolve",
    "unit_slope",
    "upper_bound",
]
