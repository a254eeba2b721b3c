"""Entropy of the policy: its mean, where in a response it sits, how it is spread. Nats per token.

Entropies are exact, over the full vocabulary, at the training temperature, over response tokens
only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from isentropic.columns import join
from isentropic.metrics.tokens import Array
from isentropic.records import Rollout, RolloutKey, Sample, TokenScores

DECILES = 10
START_ENTROPY = "eval/entropy"  # of line 0, over held-out prompts
# Edges of the histogram in nats, fixed so that steps and runs compare. Fine near 0, where a
# collapse shows; the last bin takes all above. 12.5 nats is the entropy of a uniform choice among
# 268 000 tokens.
ENTROPY_EDGES = (
    0.0,
    0.01,
    0.03,
    0.1,
    0.2,
    0.35,
    0.5,
    0.75,
    1.0,
    1.5,
    2.0,
    3.0,
    4.0,
    6.0,
    8.0,
    12.5,
)


def first_wave(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Select what the policy wrote in wave one: what `entropy/mean` and the reward curves show."""
    return [rollout for rollout in rollouts if rollout.key.wave == 0 and not rollout.is_teacher]


def entropy_metrics(
    rollouts: Sequence[Rollout], scores: Mapping[RolloutKey, TokenScores]
) -> dict[str, Any]:
    """Compute `entropy/{mean,decile_0..9,histogram}` over the first wave, before any filter.

    Decile d holds the tokens whose index in the response is in [d/10, (d+1)/10) of its length.
    Without a token a mean is NaN: the entropy of nothing is not 0. The histogram counts tokens
    between ENTROPY_EDGES.

    Args:
        rollouts: all of the step's; later waves and teachers are left out here.
        scores: the old-policy pass, by rollout.
    """
    entropies = [scores[rollout.key].entropy.astype(np.float64) for rollout in first_wave(rollouts)]
    entropy = join(entropies, np.float64)
    deciles = [np.arange(len(part)) * DECILES // len(part) for part in entropies if len(part)]
    decile = join(deciles, np.int64)
    counts = np.bincount(decile, minlength=DECILES)
    sums = np.bincount(decile, weights=entropy, minlength=DECILES)
    means = np.divide(sums, counts, out=np.full(DECILES, np.nan), where=counts > 0)
    return {
        "entropy/mean": _mean(entropy),
        **{f"entropy/decile_{d}": float(mean) for d, mean in enumerate(means)},
        "entropy/histogram": entropy_histogram(entropy),
    }


def entropy_trained(samples: Sequence[Sample]) -> dict[str, float]:
    """Compute `entropy/trained`: mean over the tokens trained on, old policy. NaN for no token."""
    entropy = join([sample.old.entropy for sample in samples])
    return {"entropy/trained": _mean(entropy.astype(np.float64))}


def entropy_histogram(entropy: Array) -> list[int]:
    """Count tokens between neighbouring ENTROPY_EDGES.

    What rounding put below 0 counts as 0, and what lies above the last edge as that edge.
    """
    inside = np.clip(entropy, ENTROPY_EDGES[0], ENTROPY_EDGES[-1])
    return np.histogram(inside, bins=ENTROPY_EDGES)[0].tolist()


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")
