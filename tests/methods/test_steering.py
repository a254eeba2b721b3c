"""The solver against its closed forms, and the controller on a plant whose response is known."""

import json
import math
import statistics
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentropic.methods.control.controller import Effects
from isentropic.methods.steering import Bounds, Steering, SteeringConfig, nearest_values

UNIT = {"beta1": Bounds(low=0.0, high=1.0), "beta2": Bounds(low=0.0, high=1.0)}


def config(**changes):
    values = {"name": "steered", "target": 0.5, "from_step": 1, "horizon": 1.0, "smoothing": 1.0}
    values |= {"observer_gain": 1.0, "actuators": {"beta1": [0.0, 1.0], "beta2": [0.0, 1.0]}}
    return SteeringConfig(**(values | changes))


def effects(rest, beta1, beta2=0.0, change=math.nan):
    return Effects(change=change, rest=rest, slopes={"beta1": beta1, "beta2": beta2})


@pytest.mark.parametrize(
    ("slopes", "change", "expected"),
    [
        # x = present + lambda slope, lambda = (change - rest - present . slope) / |slope|^2
        pytest.param((-0.4, 0.0), -0.1, (0.25, 0.5), id="one actuator: 0.5 -> 0.1 / 0.4"),
        pytest.param((-0.3, 0.1), -0.2, (0.8, 0.4), id="two: both move along their slopes"),
        pytest.param((-0.4, 0.0), -0.9, (1.0, 0.5), id="out of reach: the bound"),
        pytest.param((-0.4, 0.0), 0.9, (0.0, 0.5), id="out of reach on the other side"),
        pytest.param((-0.4, 0.2), 0.2, (0.0, 1.0), id="exactly at a corner"),
        pytest.param((0.0, 0.0), 0.3, (0.5, 0.5), id="no authority: they stay"),
    ],
)
def test_nearest_values(slopes, change, expected):
    present = {"beta1": 0.5, "beta2": 0.5}
    found = nearest_values(
        present, dict(zip(present, slopes, strict=True)), UNIT, rest=0.0, change=change
    )
    assert tuple(found.values()) == pytest.approx(expected, abs=1e-9)


def test_one_at_its_bound_leaves_the_rest_to_the_other():
    """beta1 cannot go below 0: beta2 carries what is left, 0.5 * 0.2 + 0.05 = 0.75 * 0.2."""
    found = nearest_values(
        {"beta1": 0.1, "beta2": 0.5},
        {"beta1": -1.0, "beta2": 0.2},
        UNIT,
        rest=0.0,
        change=0.15,
    )
    assert found == pytest.approx({"beta1": 0.0, "beta2": 0.75})


@pytest.mark.parametrize(
    ("present", "change", "expected"),
    [
        pytest.param(0.0, 1.0, 0.7, id="far below: the other bound is out of two widths' reach"),
        pytest.param(0.0, 0.6, 0.6, id="far below: a value inside"),
        pytest.param(9.0, 0.0, 0.5, id="far above"),
    ],
)
def test_a_present_value_outside_the_bounds_comes_as_far_as_it_must(present, change, expected):
    bounds = {"beta1": Bounds(low=0.5, high=0.7)}
    found = nearest_values({"beta1": present}, {"beta1": 1.0}, bounds, rest=0.0, change=change)
    assert found["beta1"] == pytest.approx(expected, abs=1e-9)


slopes_ = st.floats(-1, 1).filter(lambda slope: slope == 0 or abs(slope) > 1e-3)


present_ = st.floats(0, 1) | st.floats(0, 9)


@given(present_, present_, slopes_, slopes_, st.floats(-1, 1), st.floats(-1, 1))
def test_no_point_of_the_box_is_better(beta1, beta2, slope1, slope2, rest, change):
    slopes = {"beta1": slope1, "beta2": slope2}
    if not slope1 and not slope2:  # without authority they stay, also outside
        beta1, beta2 = min(beta1, 1.0), min(beta2, 1.0)
    found = nearest_values({"beta1": beta1, "beta2": beta2}, slopes, UNIT, rest=rest, change=change)

    def miss(values):
        return abs(rest + sum(values[name] * slopes[name] for name in values) - change)

    grid = [{"beta1": i / 10, "beta2": j / 10} for i in range(11) for j in range(11)]
    assert all(0 <= value <= 1 for value in found.values())
    assert miss(found) <= min(map(miss, grid)) + 1e-9


def run(steering, steps, *, start=0.5, rest=-0.01, slopes=(-0.02, 0.002), noise=None):
    """Entropies of a plant that answers as the books say; the controller sees them with `noise`."""
    entropy, trace, metrics = start, [], {}
    for step in range(1, steps + 1):
        values = {"beta1": 0.5, "beta2": 1.0} | steering.values(step)
        trace.append(entropy)
        change = rest + sum(
            values[name] * slope for name, slope in zip(values, slopes, strict=True)
        )
        seen = entropy if noise is None else entropy + noise.gauss(0, 0.02)
        metrics = steering.observe(step, seen, effects(rest, *slopes, change=change))
        entropy += change
    return trace, metrics


def test_it_follows_a_line_that_it_can_reach():
    target = {"kind": "linear", "from_step": 1, "to_step": 31, "start": 0.48, "end": 0.105}
    trace, metrics = run(Steering(config(target=target), {"beta1": 0.5, "beta2": 1.0}), 21)

    assert trace[4:21] == pytest.approx([0.48 - 0.0125 * (step - 1) for step in range(5, 22)])
    assert metrics["steer/saturated"] == 0


def test_a_target_out_of_reach_is_a_bound_and_is_said():
    """Even with beta1 = 0 and beta2 = 1 the entropy falls by 0.008 a step."""
    trace, metrics = run(Steering(config(target=0.5), {"beta1": 0.5, "beta2": 1.0}), 10)

    assert metrics["steer/beta1"] == 0 and metrics["steer/saturated"] == 1
    assert trace[-1] - trace[-2] == pytest.approx(-0.008)


def test_hold_takes_the_entropy_of_its_step():
    steering = Steering(config(target=None, from_step=6), {"beta1": 0.5, "beta2": 1.0})
    trace, _ = run(steering, 30, rest=0.005)

    assert math.isnan(Steering(config(target=None), {"beta1": 0, "beta2": 0}).target(1))
    assert trace[-1] == pytest.approx(trace[5], abs=0.01)
    assert steering.target(30) == trace[5]


def test_before_its_step_nothing_is_steered():
    steering = Steering(config(from_step=4), {"beta1": 0.5, "beta2": 1.0})
    run(steering, 3)
    assert [steering.values(step) for step in (1, 2, 3)] == [{}, {}, {}]
    assert set(steering.values(4)) == {"beta1", "beta2"}


def test_without_clipping_the_betas_stay():
    steering = Steering(config(), {"beta1": 0.5, "beta2": 1.0})
    _, metrics = run(steering, 5, slopes=(0.0, 0.0))

    assert steering.values(6) == {"beta1": 0.5, "beta2": 1.0}
    assert metrics["steer/idle"] == 1 and metrics["steer/saturated"] == 0


def test_steps_that_were_not_measured_change_no_mean():
    steering = Steering(config(smoothing=0.5), {"beta1": 0.5, "beta2": 1.0})
    steering.observe(1, 0.5, effects(-0.01, -0.02))
    before = steering.state_dict()
    steering.observe(2, 0.5, effects(math.nan, math.nan, math.nan))
    after = steering.state_dict()
    assert (before["rest"], before["slopes"]) == (after["rest"], after["slopes"])


def test_smoothing():
    steering = Steering(config(smoothing=0.25), {"beta1": 0.5, "beta2": 1.0})
    for rest in (-0.04, -0.08):
        steering.observe(1, 0.5, effects(rest, rest))
    assert steering.state_dict()["rest"] == pytest.approx(-0.05)  # 0.75 * -0.04 + 0.25 * -0.08


def test_the_level_is_carried_by_the_books_and_corrected_by_what_is_measured():
    """0.5, then 0.5 - 0.03 = 0.47 and a quarter of the way to 0.43: 0.46; without entropy 0.46 - 0.02."""
    steering = Steering(config(observer_gain=0.25), {"beta1": 0.5, "beta2": 1.0})
    levels = [
        steering.observe(step, entropy, effects(-0.01, -0.02, change=change))["steer/level"]
        for step, entropy, change in ((1, 0.5, -0.03), (2, 0.43, -0.02), (3, math.nan, 0.0))
    ]
    assert levels == pytest.approx([0.5, 0.46, 0.44])


def test_an_unmeasured_step_changes_the_level_as_predicted():
    """By rest + 0.5 * -0.02 = -0.02: nothing is steered yet."""
    steering = Steering(config(observer_gain=0.5, from_step=9), {"beta1": 0.5, "beta2": 1.0})
    steering.observe(1, 0.5, effects(-0.01, -0.02, change=-0.02))
    steering.observe(2, 0.48, effects(math.nan, math.nan, math.nan))
    seen = steering.observe(3, math.nan, effects(math.nan, math.nan, math.nan))
    assert seen["steer/level"] == pytest.approx(0.46)


def test_the_observer_keeps_noise_from_the_plant():
    """Entropies measured with an error of 0.02: steered by them alone, the plant follows the error."""

    def off(gain):
        steering = Steering(
            config(target=0.5, horizon=2.0, observer_gain=gain), {"beta1": 0.5, "beta2": 1.0}
        )
        trace, _ = run(steering, 400, rest=0.0, slopes=(-0.1, 0.05), noise=Random(0))
        return statistics.pstdev(trace[50:])

    assert off(0.3) < 0.65 * off(1.0)


def test_the_state_goes_on_exactly():
    one, other = (
        Steering(config(smoothing=0.3, observer_gain=0.4), {"beta1": 0.5, "beta2": 1.0})
        for _ in range(2)
    )
    run(one, 7)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert run(one, 5) == run(other, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actuators": {}}, "actuators is empty"),
        ({"actuators": {"beta3": [0, 1]}}, "beta3"),
        ({"actuators": {"beta1": [1, 0]}}, "beta1, high"),
        ({"actuators": {"beta1": 0.5}}, r"must be \[low, high\]"),
        ({"target": -1.0}, "steering.target"),
        ({"horizon": 0.5}, "steering.horizon"),
        ({"smoothing": 0.0}, "steering.smoothing"),
        ({"observer_gain": 0.0}, "steering.observer_gain"),
        ({"observer_gain": 1.5}, "steering.observer_gain"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_an_objective_without_the_coefficient():
    with pytest.raises(ValueError, match="which neither the objective nor the"):
        Steering(config(), {"clip_low": 0.2})


def test_the_step_is_shared_in_units_of_the_widths():
    """Equal effect per width: a bonus in [0, 0.1] and a beta in [0, 1] move by the same share."""
    found = nearest_values(
        {"beta1": 0.5, "entropy_bonus": 0.05},
        {"beta1": -0.01, "entropy_bonus": 0.1},
        {"beta1": Bounds(low=0.0, high=1.0), "entropy_bonus": Bounds(low=0.0, high=0.1)},
        rest=0.0,
        change=0.006,  # the present values give 0; 0.3 widths of each give 0.003
    )
    assert found == pytest.approx({"beta1": 0.2, "entropy_bonus": 0.08})
