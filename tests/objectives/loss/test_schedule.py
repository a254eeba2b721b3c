"""Values of a coefficient at steps, and what is refused."""

import pytest

from isentropic.objectives.loss.schedule import check_coefficient, resolve

LINEAR = {"kind": "linear", "from_step": 11, "to_step": 21, "start": 1.0, "end": 0.0}


@pytest.mark.parametrize(
    ("coefficient", "values"),
    [
        (0.3, {1: 0.3, 999: 0.3}),
        (None, {1: None}),
        ({"kind": "constant", "value": 0.3}, {1: 0.3, 999: 0.3}),
        (
            {"kind": "switch", "step": 585, "before": 0.0, "after": 0.5},
            {1: 0.0, 584: 0.0, 585: 0.5, 600: 0.5},
        ),
        ({"kind": "switch", "step": 2, "before": None, "after": 0.5}, {1: None, 2: 0.5}),
        (LINEAR, {1: 1.0, 11: 1.0, 12: 0.9, 16: 0.5, 21: 0.0, 22: 0.0}),
        (LINEAR | {"kind": "cosine"}, {1: 1.0, 11: 1.0, 16: 0.5, 21: 0.0, 22: 0.0}),
    ],
)
def test_values(coefficient, values):
    check_coefficient("key", coefficient, optional=True)
    for step, value in values.items():
        assert resolve(coefficient, step) == pytest.approx(value, abs=1e-15)


def test_cosine_is_slow_at_its_ends():
    """A tenth of the way: (1 + cos(pi / 10)) / 2."""
    assert resolve(LINEAR | {"kind": "cosine"}, 12) == pytest.approx(0.97552825814757679)


@pytest.mark.parametrize(
    ("coefficient", "message"),
    [
        (-0.1, "objective.beta1 must be >= 0, got -0.1"),
        (None, "objective.beta1 must be a number or a schedule .*; got None"),
        (True, "must be a number or a schedule .*; got True"),
        ("0.5", "must be a number or a schedule .*; got '0.5'"),
        (float("nan"), "must be >= 0, got nan"),
        (LINEAR | {"end": -1}, "objective.beta1.end must be >= 0, got -1"),
        (LINEAR | {"end": None}, "objective.beta1.end must be a number: there is no way"),
        (
            LINEAR | {"kind": "linaer"},
            r"objective.beta1.kind must be one of .*; got 'linaer'. Did you mean 'linear'",
        ),
        (LINEAR | {"to_step": 11}, "objective.beta1.to_step must be > 11, got 11"),
        (LINEAR | {"from_step": 0}, "objective.beta1.from_step must be >= 1, got 0"),
        (LINEAR | {"from_step": 1.5}, "must be a step .a whole number from 1., got 1.5"),
        (
            {"kind": "switch", "step": 3, "after": 1.0},
            "a switch schedule has the keys kind, step, before, after",
        ),
        ({"value": 3}, "objective.beta1.kind must be one of"),
    ],
)
def test_refused(coefficient, message):
    with pytest.raises(ValueError, match=message):
        check_coefficient("objective.beta1", coefficient, at_least=0)
