"""The metrics of OGER over the groups of one step."""

from collections.abc import Mapping, Sequence

import numpy as np

from isentropic.records import Floats, Rollout, RolloutKey, TokenScores


class Report:
    """Collects the numbers of each group; `metrics` makes their means."""

    def __init__(self) -> None:
        self._lists: dict[str, list[float]] = {}
        self._similarity: dict[str, list[float]] = {}
        self._groups = self._exchanged = 0

    def without_teacher(self, rollouts: Sequence[Rollout]) -> None:
        """Takes a group without teachers."""
        self._groups += 1
        self._add("online_solved", [rollout.reward for rollout in rollouts])

    def group(self, reward, gap, entropy, bonus, rollouts: Sequence[Rollout], scores) -> None:
        """Takes the policy's responses of a group that a teacher joins."""
        self._groups += 1
        self._add("online_solved", reward)
        self._add("divergence_mean", gap)
        self._add("confidence_mean", np.exp(-entropy))
        self._add("bonus_mean", bonus)
        self._add("_total", reward + bonus)
        self._add(
            "online_prob_mean", np.concatenate([np.exp(scores[r.key].logprob) for r in rollouts])
        )

    def similarities(self, teachers: Sequence[str], similarity: Floats) -> None:
        for teacher, column in zip(teachers, similarity.T, strict=True):
            self._similarity.setdefault(teacher, []).extend(column)

    def exchange(self, teacher: Rollout, scores: Mapping[RolloutKey, TokenScores]) -> None:
        self._exchanged += 1
        self._add("offline_solved", [teacher.reward])
        self._add("offline_prob_mean", np.exp(scores[teacher.key].logprob))

    def metrics(self) -> dict[str, float]:
        """Means over the step, under oger/.

        `bonus_variance_share` is cov(bonus, total) / var(total): the bonus's share of the variance.
        """
        means = {
            f"oger/{key}": float(np.mean(values))
            for key, values in self._lists.items()
            if key != "_total"
        }
        means |= {
            f"oger/similarity/{name}": float(np.mean(values))
            for name, values in self._similarity.items()
        }
        means["oger/teacher_groups_frac"] = self._exchanged / max(self._groups, 1)
        total = np.array(self._lists.get("_total", []))
        bonus = np.array(self._lists.get("bonus_mean", []))
        if total.size and total.var() > 0:
            share = np.mean((bonus - bonus.mean()) * (total - total.mean())) / total.var()
            means["oger/bonus_variance_share"] = float(share)
        return means

    def _add(self, key: str, values) -> None:
        self._lists.setdefault(key, []).extend(np.asarray(values, dtype=np.float64).tolist())
