"""FlexEC's schedules at the steps of their table, and od's turns on a list of entropies."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isentropic.methods.control.flexec import FlexEcSchedule
from isentropic.objectives.flexec import flexec

START = {"up_weight": 1.0, "low_weight": 0.0}


def schedule(kind, steps=400, **changes):
    values = {"first_share": 0.5, "ramp": "fade", "start_entropy": None, "floor_share": 0.2}
    values["start_raising"] = False
    values |= {"name": "flexec", "schedule": kind, "total_steps": steps}
    return FlexEcSchedule(**{**values, **changes})


def widths(controller, k, p=0.2):
    """E+ and E- at a current probability, from the constants of the paper's notes."""
    weights = controller.values(k + 1)
    up, low = -0.25 * p + 0.5, -0.13 * p + 0.3  # 0.45 and 0.274
    mixed = lambda weight, moving: weight * moving + (1 - weight) * 0.2  # noqa: E731
    return mixed(weights["up_weight"], up), mixed(weights["low_weight"], low)


@pytest.mark.parametrize(
    ("kind", "k", "expected"),
    [
        ("id", 0, (0.45, 0.2)),
        ("id", 100, (0.325, 0.2)),
        ("id", 200, (0.2, 0.2)),
        ("id", 201, (0.2, 0.27363)),
        ("id", 300, (0.2, 0.237)),
        ("id", 400, (0.2, 0.2)),
        ("did", 0, (0.2, 0.2)),
        ("did", 100, (0.325, 0.2)),
        ("did", 200, (0.45, 0.2)),
        ("did", 201, (0.45, 0.27363)),
        ("did", 300, (0.45, 0.237)),
        ("did", 400, (0.45, 0.2)),
        ("raise", 300, (0.45, 0.2)),
        ("lower", 100, (0.2, 0.274)),
        ("id", 9_999, (0.2, 0.2)),  # k stops at T
    ],
)
def test_widths(kind, k, expected):
    assert widths(schedule(kind).build(START), k) == pytest.approx(expected, abs=5e-6)


@given(st.integers(1, 99), st.integers(1, 40))
def test_the_last_step_of_the_first_phase_belongs_to_it(percent, hundreds):
    """k <= share * T: 0.29 * 100 is 28.999999999999996 in floats, and k = 29 is the turn."""
    turn, total = percent * hundreds, 100 * hundreds
    early = schedule("id", steps=total, first_share=percent / 100)
    late = schedule("did", steps=total, first_share=percent / 100)
    assert (early.weights(1 + turn), late.weights(1 + turn)) == ((0.0, 0.0), (1.0, 0.0))
    assert early.weights(turn)[0] > 0 == early.weights(turn)[1]
    if turn < total:
        assert early.weights(2 + turn) == pytest.approx((0.0, 1 - 1 / (total - turn)))


def test_another_first_share_is_the_same_at_one_half_and_turns_where_it_says():
    early = schedule("id", first_share=0.3)
    assert early.weights(1 + 60) == pytest.approx((0.5, 0.0))
    assert early.weights(1 + 120) == pytest.approx((0.0, 0.0))
    assert early.weights(1 + 260) == pytest.approx((0.0, 0.5))


def test_a_growing_second_phase_is_the_reverse():
    grow = schedule("id", ramp="grow").build(START)
    assert [grow.values(k + 1)["low_weight"] for k in (201, 300, 400)] == pytest.approx(
        [0.005, 0.5, 1.0]
    )


@pytest.mark.parametrize(
    ("k", "q", "bound", "value"),
    [
        pytest.param(100, 0.1, "flexec/upper", 1.35 / 1.0125, id="half the upper width"),
        pytest.param(300, 0.5, "flexec/lower", 0.75 / 0.9675, id="half the lower width"),
    ],
)
def test_the_objective_mixes_as_the_schedule_says(k, q, bound, value):
    weights = schedule("id").build(START).values(k + 1)
    result = flexec(
        torch.zeros(1).double(),
        torch.ones(1).double(),
        old_logprob=torch.tensor([q], dtype=torch.float64).log(),
        clip_low=0.2,
        clip_high=0.2,
        up_slope=-0.25,
        up_width=0.5,
        low_slope=-0.13,
        low_width=0.3,
        **weights,
    )
    assert result.metrics[bound].item() == pytest.approx(value, rel=1e-12)


OD = [(0, 1.0, 0), (10, 0.15, 1), (30, 0.5, 1), (40, 0.7, 0), (60, 0.3, 0), (70, 0.2, 1)]


def test_od_turns_at_the_floor_and_at_the_falling_line():
    od, signs = schedule("od", steps=100).build(START), []
    for k, entropy, _ in OD:
        od.sense(k + 1, entropy)
        signs.append(od.values(k + 1)["up_weight"])
        assert sum(od.values(k + 1).values()) == 1
    assert signs == [sign for _, _, sign in OD]
    assert (od.aim(31).low, od.aim(31).high) == pytest.approx((0.2, 0.76))
    assert od.aim(41).high == pytest.approx(0.68)


def test_od_may_begin_by_raising():
    """H_init is on the line at k = 0 and crosses it at k = 40: 0.7 > tau_high = 0.68."""
    od, signs = schedule("od", steps=100, start_raising=True).build(START), []
    for k, entropy in ((0, 1.0), (20, 0.8), (40, 0.7), (60, 0.3)):
        od.sense(k + 1, entropy)
        signs.append(od.values(k + 1)["up_weight"])
    assert signs == [1, 1, 0, 0]


def test_od_without_entropy_stays_as_it_is():
    od = schedule("od").build(START)
    od.sense(1, math.nan)
    assert od.values(1) == {"up_weight": 0.0, "low_weight": 1.0}
    assert (od.aim(1).low, od.aim(1).high) == (None, None)
    od.sense(2, 0.8)
    assert od.aim(2).low == pytest.approx(0.16)


def test_a_given_start_entropy_counts():
    od = schedule("od", start_entropy=0.5).build(START)
    od.sense(1, 0.1)
    assert od.values(1)["up_weight"] == 1.0 and od.aim(1).high == 0.5


@pytest.mark.parametrize("cut", range(1, len(OD)))
def test_the_state_goes_on_exactly(cut):
    whole, first, rest = (schedule("od", steps=100).build(START) for _ in range(3))
    for k, entropy, _ in OD:
        whole.sense(k + 1, entropy)
    for k, entropy, _ in OD[:cut]:
        first.sense(k + 1, entropy)
    rest.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for k, entropy, _ in OD[cut:]:
        rest.sense(k + 1, entropy)
    assert rest.state_dict() == whole.state_dict() and rest.aim(80) == whole.aim(80)


def test_open_loop_schedules_aim_at_nothing():
    assert all(schedule(kind).build(START).aim(3) is None for kind in ("id", "did", "raise"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "di"}, "steering.schedule"),
        ({"kind": "id", "first_share": 1.0}, "first_share"),
        ({"kind": "id", "ramp": "up"}, "ramp"),
        ({"kind": "od", "start_entropy": 0.0}, "start_entropy"),
        ({"kind": "od", "floor_share": 1.0}, "floor_share"),
        ({"kind": "id", "steps": 0}, "total_steps"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        schedule(**changes)


def test_an_objective_without_moving_widths():
    with pytest.raises(ValueError, match=r"steering=flexec sets up_weight, low_weight"):
        schedule("id").build({"clip_low": 0.2})
