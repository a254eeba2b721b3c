"""What other objectives would have done on the batch that was trained on.

No further forward pass: only [N] leaves are needed.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from isentropic.metrics.accounting import mass_shares, share
from isentropic.metrics.classes import bounded_ratio, class_index, clip_sides, high_by_probability
from isentropic.metrics.panel import build_counterfactuals as build_counterfactuals
from isentropic.metrics.tokens import Array, TokenTable
from isentropic.objectives import ObjectiveConfig
from isentropic.objectives.loss.leaves import leaf_gradients


def loss_fields(table: TokenTable) -> dict[str, Tensor]:
    """Give the table's columns as the objectives take them: [N] tensors, no copy."""
    return {
        name: torch.from_numpy(np.ascontiguousarray(column))
        for name, column in table.columns.items()
    }


def counterfactual_metrics(
    table: TokenTable,
    used: Array,
    panel: Mapping[str, ObjectiveConfig],
    *,
    step: int,
    seed: int,
    p_split: float,
    effect: Callable[[Array], float] | None = None,
) -> dict[str, float]:
    """Compute the metrics of each objective of the panel, on the tokens of one update.

        cf/<label>/grad_share/<class>, /low, /high   its gradient mass
        cf/<label>/mass       its sum of |push| over that of the loss used
        cf/<label>/drift      its entropy change per unit learning rate, on free logits
        cf/<label>/cosine     of its push and the one used, over the tokens; 0 if either is 0

    The tokens are those that the objective used has reached: after the first update the panel says
    what the others would do from here, not where they would be. Added loss terms are left out of
    mass, drift and cosine. They are the same beside every objective, so `entropy_change` has their
    part in it: that of the objective used is what the ledger measured for all its tokens.

    Args:
        table: the tokens of the update.
        used: [N] -d loss / d logprob of the loss used, weights included.
        panel: label -> config.
        step, seed: for schedules, and for objectives that draw at random.
        p_split: HP from this probability on.
        effect: nats by which a step of this [N] push, the added terms beside it, would have moved
            the entropy along the real step (`metrics.ledger`; AdamW's denominator and the clip of
            the gradient are held); gives cf/<label>/entropy_change. None: not measured.
    """
    fields = loss_fields(table)
    token_ratio = bounded_ratio(table.log_ratio)
    index = class_index(table.advantage, high_by_probability(table.old_logprob, p_split))
    used_mass, used_norm = np.abs(used).sum(), np.linalg.norm(used)
    metrics: dict[str, float] = {}
    for label, config in panel.items():
        coefficients = config.at(step)
        leaves = leaf_gradients(config, coefficients, fields, seed=seed)
        push = -leaves.d_logprob.numpy()
        token_metrics = {name: value.numpy() for name, value in leaves.metrics.items()}
        sides = clip_sides(
            token_metrics.get("ratio", token_ratio), table.advantage, coefficients, token_metrics
        )
        mass = np.abs(push)
        metrics |= mass_shares(f"cf/{label}/grad_share", mass, index, sides)
        metrics[f"cf/{label}/mass"] = share(mass.sum(), used_mass)
        metrics[f"cf/{label}/drift"] = -float(push @ table.sensitivity)
        if effect is not None:
            metrics[f"cf/{label}/entropy_change"] = effect(push)
        metrics[f"cf/{label}/cosine"] = share(push @ used, np.linalg.norm(push) * used_norm)
    return metrics
