"""The learning rate of each update, by hand."""

from types import SimpleNamespace

import pytest

from isentropic.learner.optimizer import learning_rate


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        pytest.param("constant", 0, [2.0, 2.0, 2.0, 2.0, 2.0, 2.0], id="constant"),
        pytest.param("constant", 4, [0.5, 1.0, 1.5, 2.0, 2.0, 2.0], id="warm-up in four steps"),
        pytest.param("linear", 0, [2.0, 1.6, 1.2, 0.8, 0.4, 0.0], id="down to zero at the end"),
        pytest.param("linear", 1, [2.0, 2.0, 1.5, 1.0, 0.5, 0.0], id="down, after the warm-up"),
        pytest.param(
            "cosine", 1, [2.0, 2.0, 1.7071067811865475, 1.0, 0.2928932188134524, 0.0], id="cosine"
        ),
    ],
)
def test_learning_rate(schedule, warmup, expected):
    config = SimpleNamespace(lr=2.0, lr_schedule=schedule, warmup_updates=warmup)
    assert [learning_rate(config, made, 5) for made in range(6)] == pytest.approx(
        expected, abs=1e-12
    )


def test_warm_up_longer_than_the_run():
    config = SimpleNamespace(lr=1.0, lr_schedule="linear", warmup_updates=10)
    assert learning_rate(config, 4, 5) == 0.5
