"""The report of a controller, on a few steps that can be added up by hand."""

import json
import math

import pytest

from isentropic.methods.control.controller import Aim
from isentropic.methods.control.tracking import Tracking

BAND = {"low": 0.4, "high": 0.6}


def report(tracking, entropy, aim, samples=()):
    metrics = tracking.add(entropy, aim, samples)
    return {name.removeprefix("control/"): value for name, value in metrics.items()}


def test_means_over_the_run():
    tracking = Tracking()
    report(tracking, 0.5, Aim(**BAND, mode=0))
    report(tracking, 0.6, Aim(**BAND, mode=1, saturated=True))  # on the edge is inside
    report(tracking, 0.8, Aim(**BAND, mode=1))
    got = report(tracking, 0.1, Aim(**BAND, mode=-1))
    assert got == pytest.approx(
        {"gap_abs_mean": (0 + 0.1 + 0.3 + 0.4) / 4, "inside_frac": 0.5, "saturated_frac": 0.25,
         "switches": 2, "target": 0.5, "mode": -1, "effective_batch": 0}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("aim", "entropy", "target", "inside"),
    [
        pytest.param(Aim(low=0.5, high=0.5), 0.549, 0.5, 1, id="a tenth beside a single target"),
        pytest.param(Aim(low=0.5, high=0.5), 0.56, 0.5, 0, id="more than a tenth"),
        pytest.param(Aim(low=0.5, high=None), 9.0, 0.5, 1, id="no upper edge"),
        pytest.param(Aim(low=None, high=0.5), 0.6, 0.5, 0, id="no lower edge"),
    ],
)
def test_targets(aim, entropy, target, inside):
    got = report(Tracking(), entropy, aim)
    assert (got["target"], got["inside_frac"]) == (target, inside)


def test_steps_without_target_or_entropy_count_only_switches():
    tracking = Tracking()
    for aim in (Aim(low=None, high=None), Aim(low=math.nan, high=math.nan, mode=1)):
        got = report(tracking, 0.5, aim)
    assert math.isnan(got["gap_abs_mean"]) and got["switches"] == 1
    assert math.isnan(report(tracking, math.nan, Aim(**BAND))["inside_frac"])


def test_without_a_controller_nothing_is_said():
    assert Tracking().add(0.5, None, []) == {}


def test_the_effective_batch_is_what_has_an_advantage(new):
    samples = [
        new.sample(advantage=1.0),
        new.sample(advantage=[0.0, -1.0]),
        new.sample(advantage=0),
    ]
    assert report(Tracking(), 0.5, Aim(**BAND), samples)["effective_batch"] == 2


def test_the_state_goes_on_exactly():
    one, other = Tracking(), Tracking()
    report(one, 0.8, Aim(**BAND, mode=1))
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert report(one, 0.1, Aim(**BAND, mode=-1)) == report(other, 0.1, Aim(**BAND, mode=-1))
    old = Tracking()
    old.load_state_dict({})  # a checkpoint from before this report
    assert old.state_dict() == Tracking().state_dict()
