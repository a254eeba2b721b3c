"""The entropy change that the accounting predicts, beside the one measured after the step."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

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


def predicted_change(
    updates: Sequence[Mapping[str, float]], learning_rates: Sequence[float]
) -> float:
    """Predict the step to first order: the sum over its updates of learning rate * drift/total.

    This is what the step would do to the entropy if the logits moved freely, each by the learning
    rate times its own gradient. Adam and the shared weights stretch it by an unknown factor, much
    the same from step to step: read its sign and its correlation with the measured change, not its
    size.
    """
    return float(
        sum(rate * row["drift/total"] for row, rate in zip(updates, learning_rates, strict=True))
    )


class PredictionTracker:
    """Correlation (Pearson), over the run, of predicted and measured change, and their slope.

    Running moments (Welford), so a resumed run goes on with the same numbers.
    """

    def __init__(self) -> None:
        self._count = 0
        self._means = [0.0, 0.0]
        # Sums over the deviations: predicted squared, measured squared, their product.
        self._moments = [0.0, 0.0, 0.0]

    def add(self, predicted: float, measured: float) -> dict[str, float]:
        """Take a step's pair (skipped if either is not finite); return the run's metrics so far."""
        if math.isfinite(predicted) and math.isfinite(measured):
            self._count += 1
            from_old = (predicted - self._means[0], measured - self._means[1])
            self._means = [
                mean + d / self._count for mean, d in zip(self._means, from_old, strict=True)
            ]
            from_new = (predicted - self._means[0], measured - self._means[1])
            self._moments[0] += from_old[0] * from_new[0]
            self._moments[1] += from_old[1] * from_new[1]
            self._moments[2] += from_old[0] * from_new[1]
        return {
            "entropy/predicted_change": predicted,
            "entropy/prediction_correlation": self.correlation,
            "entropy/prediction_slope": self.slope,
        }

    @property
    def correlation(self) -> float:
        """In [-1, 1]; NaN for fewer than three steps, or if either side never moved."""
        if not self._moved(0) or not self._moved(1):
            return float("nan")
        return self._moments[2] / (math.sqrt(self._moments[0]) * math.sqrt(self._moments[1]))

    @property
    def slope(self) -> float:
        """The least-squares factor from predicted to measured change."""
        return self._moments[2] / self._moments[0] if self._moved(0) else float("nan")

    def _moved(self, side: int) -> bool:
        """Tell whether the values differ by more than their rounding."""
        rounding = (1e-12 * self._means[side]) ** 2 * self._count
        return self._count > 2 and self._moments[side] > rounding

    def state_dict(self) -> dict[str, Any]:
        return {"count": self._count, "means": list(self._means), "moments": list(self._moments)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._count = state["count"]
        self._means = list(state["means"])
        self._moments = list(state["moments"])
