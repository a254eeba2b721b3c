"""Means, deciles and histogram of a few tokens."""

import math

import pytest

from isentropic.metrics.entropy import (
    ENTROPY_EDGES,
    entropy_histogram,
    entropy_metrics,
    entropy_trained,
)


def test_mean_is_over_the_tokens_of_the_first_wave(make):
    first, second = make.rollout(0, 0, tokens=1), make.rollout(0, 1, tokens=3)
    later = make.rollout(0, 0, tokens=1, wave=1)
    teacher = make.rollout(0, 2, tokens=1, origin="teacher:book")
    scores = {
        first.key: make.scores([2.0]),
        second.key: make.scores([1.0, 1.0, 0.0]),
        later.key: make.scores([9.0]),
        teacher.key: make.scores([9.0]),
    }
    metrics = entropy_metrics([first, second, later, teacher], scores)
    assert metrics["entropy/mean"] == 1.0  # (2 + 1 + 1 + 0) / 4
    assert sum(metrics["entropy/histogram"]) == 4


def test_deciles_are_of_the_position_in_the_response(make):
    """Of 20 tokens two fall into each decile; of one token, the only one falls into the first."""
    long, short = make.rollout(0, 0, tokens=20), make.rollout(1, 0, tokens=1)
    scores = {long.key: make.scores([i // 2 for i in range(20)]), short.key: make.scores([3.0])}
    metrics = entropy_metrics([long, short], scores)
    assert [metrics[f"entropy/decile_{d}"] for d in range(10)] == [
        1.0,
        *range(1, 10),
    ]  # (0 + 0 + 3) / 3 = 1


def test_the_entropy_of_nothing_is_not_zero(make):
    metrics = entropy_metrics([], {})
    assert math.isnan(metrics["entropy/mean"]) and math.isnan(metrics["entropy/decile_9"])
    assert metrics["entropy/histogram"] == [0] * (len(ENTROPY_EDGES) - 1)


def test_histogram_counts_what_lies_beyond_its_edges():
    counts = entropy_histogram([-1e-7, 0.005, 0.01, 100.0])
    assert counts[0] == 2 and counts[1] == 1 and counts[-1] == 1


def test_trained_mean_is_over_tokens(make):
    samples = [
        make.sample(make.rollout(0, i, tokens=n), entropy=h)
        for i, (n, h) in enumerate([(1, 4.0), (3, 0.0)])
    ]
    assert entropy_trained(samples)["entropy/trained"] == pytest.approx(1.0)
