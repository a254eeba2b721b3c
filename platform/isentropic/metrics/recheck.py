"""The entropy measured again after a step, on some of its contexts: which ones, and the change."""

import math
from collections.abc import Sequence

import numpy as np

from isentropic.records import Floats, Rollout
from isentropic.seeds import hash_seed

FEWEST_CLUSTERS = 2  # a single rollout has no standard error


def recheck_subset(rollouts: Sequence[Rollout], share: float, seed: int) -> list[Rollout]:
    """Choose the rollouts whose entropy is measured again after the step, in the order given.

    The ceil(share * n) rollouts of smallest hash(seed, key), at least two if there are two: the
    choice depends on what was drawn, never on who drew it, and its cost is fixed. share 0 chooses
    none.
    """
    if share <= 0 or not rollouts:
        return []
    count = min(len(rollouts), max(FEWEST_CLUSTERS, math.ceil(share * len(rollouts))))
    order = sorted(
        range(len(rollouts)),
        key=lambda i: (hash_seed("recheck", seed, *rollouts[i].key), rollouts[i].key),
    )
    return [rollouts[i] for i in sorted(order[:count])]


def measured_change(before: Sequence[Floats], after: Sequence[Floats]) -> dict[str, float]:
    """Measure the change of the mean token entropy on the same contexts, and its standard error.

        change = sum_i D_i / sum_i n_i,     D_i the summed change over the n_i tokens of rollout i
        se^2   = m / (m - 1) * sum_i (D_i - n_i * change)^2 / (sum_i n_i)^2
                                            (ratio estimator, m rollouts)

    Tokens of one rollout move together, so the rollouts are the clusters.

    Args:
        before, after: [N] nats each, one entry per rollout, under the weights before and after the
            step.
    """
    lengths = np.array([len(part) for part in before], dtype=np.float64)
    sums = np.array(
        [
            float(np.sum(new.astype(np.float64) - old))
            for old, new in zip(before, after, strict=True)
        ],
        dtype=np.float64,
    )
    tokens, clusters = lengths.sum(), len(lengths)
    change = sums.sum() / tokens if tokens else float("nan")
    error = float("nan")
    if tokens and clusters >= FEWEST_CLUSTERS:
        spread = np.sum((sums - lengths * change) ** 2)
        error = math.sqrt(clusters / (clusters - 1) * spread) / tokens
    return {
        "entropy/measured_change": float(change),
        "entropy/measured_change_se": float(error),
        "entropy/recheck_tokens": int(tokens),
    }
