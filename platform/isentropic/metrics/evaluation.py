"""avg@k and pass@k on held-out prompts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isentropic.records import Rollout


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Estimates the chance that at least one of k samples is right.

        1 - C(n - c, k) / C(n, k)    n = samples, c = right

    The unbiased estimator of Chen et al. (arXiv:2107.03374, eq. 1).
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(
            "pass@k needs 0 <= right <= samples and 1 <= k <= samples; "
            f"got right {right}, samples {samples}, k {k}. "
            "Draw at least k samples per prompt (evaluation.samples)."
        )
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemScore:
    """How the samples of one held-out prompt did."""

    prompt_id: str
    samples: int
    right: int
    reward_mean: float
    tokens_mean: float

    @property
    def avg(self) -> float:
        return self.right / self.samples


def problem_scores(rollouts: Sequence[Rollout]) -> list[ProblemScore]:
    """Scores each draw, in the order of the draws."""
    by_draw: dict[int, list[Rollout]] = {}
    for rollout in rollouts:
        by_draw.setdefault(rollout.key.draw, []).append(rollout)
    return [
        ProblemScore(
            prompt_id=group[0].prompt.prompt_id,
            samples=len(group),
            right=sum(rollout.is_right for rollout in group),
            reward_mean=float(np.mean([rollout.reward for rollout in group])),
            tokens_mean=float(np.mean([rollout.num_response_tokens for rollout in group])),
        )
        for _, group in sorted(by_draw.items())
    ]


def evaluation_metrics(
    rollouts_by_set: Mapping[str, Sequence[Rollout]], k: int
) -> dict[str, float]:
    """Computes the keys `eval/*` of all held-out sets.

    eval/<set>/avg_at_k                     share of right samples, mean over prompts
    eval/<set>/pass_at_k                    see `pass_at_k`, mean over prompts
    eval/<set>/{reward_mean,tokens_mean}    means over prompts
    eval/{avg_at_k,pass_at_k}               means over the sets
    """
    metrics: dict[str, float] = {}
    for name, rollouts in rollouts_by_set.items():
        scores = problem_scores(rollouts)
        if scores:
            passed = [pass_at_k(score.samples, score.right, k) for score in scores]
            metrics |= {
                f"eval/{name}/avg_at_k": float(np.mean([score.avg for score in scores])),
                f"eval/{name}/pass_at_k": float(np.mean(passed)),
                f"eval/{name}/reward_mean": float(np.mean([score.reward_mean for score in scores])),
                f"eval/{name}/tokens_mean": float(np.mean([score.tokens_mean for score in scores])),
            }
    for kind in ("avg_at_k", "pass_at_k"):
        values = [value for key, value in metrics.items() if key.endswith(f"/{kind}")]
        if values:
            metrics[f"eval/{kind}"] = float(np.mean(values))
    return metrics
