"""avg@k and pass@k by hand, and against enumeration."""

from dataclasses import replace
from itertools import combinations

import pytest

from isentropic.metrics.evaluation import evaluation_metrics, pass_at_k, problem_scores


@pytest.mark.parametrize(
    ("samples", "right", "k"), [(5, 2, 3), (6, 0, 2), (4, 4, 1), (7, 1, 7), (5, 3, 3)]
)
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(samples, right, k):
    subsets = list(combinations([1] * right + [0] * (samples - right), k))
    assert pass_at_k(samples, right, k) == pytest.approx(
        sum(any(subset) for subset in subsets) / len(subsets)
    )


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match=r"samples 2, k 4. Draw at least k samples"):
        pass_at_k(2, 1, 4)


def test_metrics_of_two_sets(make):
    def problem(draw, rewards):
        return [make.rollout(draw, i, reward=reward) for i, reward in enumerate(rewards)]

    easy = problem(0, [1, 1, 0, 0]) + problem(1, [0, 0, 0, 0.5])  # half a point is not right
    hard = problem(0, [1, 0, 0, 0])
    metrics = evaluation_metrics({"easy": easy, "hard": hard}, k=4)
    assert metrics["eval/easy/avg_at_k"] == 0.25
    assert metrics["eval/easy/pass_at_k"] == 0.5
    assert metrics["eval/easy/reward_mean"] == pytest.approx(2.5 / 8)
    assert metrics["eval/hard/pass_at_k"] == 1.0
    assert metrics["eval/avg_at_k"] == 0.25
    assert metrics["eval/pass_at_k"] == 0.75


def test_the_task_says_what_right_pays(make):
    """Right pays 5, wrong 1: one right answer of four."""
    rollouts = [make.rollout(0, i, reward=reward) for i, reward in enumerate([5, 1, 1, 1])]
    prompt = replace(rollouts[0].prompt, reward_right=5.0)
    metrics = evaluation_metrics({"math": [replace(r, prompt=prompt) for r in rollouts]}, k=2)
    assert metrics["eval/math/avg_at_k"] == 0.25
    assert metrics["eval/math/pass_at_k"] == pytest.approx(1 - 3 / 6)


def test_problems_are_in_the_order_of_the_draws(make):
    scores = problem_scores(
        [make.rollout(3, 0, reward=0.0), make.rollout(1, 0), make.rollout(3, 1, tokens=6)]
    )
    assert [(score.prompt_id, score.right, score.samples) for score in scores] == [
        ("p1", 1, 1),
        ("p3", 1, 2),
    ]
    assert scores[1].tokens_mean == 5.0
