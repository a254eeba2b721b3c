"""Synthetic curves that must, and that must not, raise an alarm.

The thresholds are those of conf/alarms/default.yaml.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml

from isentropic.metrics.alarms.alarms import Alarms, AlarmsConfig

RULES = yaml.safe_load((Path(__file__).parents[3] / "conf/alarms/default.yaml").read_text())[
    "rules"
]
RANDOM = np.random.default_rng(0)


def watch(metric, curve, rules=RULES):
    """Collects all records of a run whose `metric` follows `curve`, from step 1."""
    alarms = Alarms(AlarmsConfig(rules=rules))
    return [
        record
        for step, value in enumerate(curve, 1)
        for record in alarms.check({"step": step, metric: value})
    ]


def raised(metric, curve, rules=RULES):
    return [
        (record["rule"], record["step"])
        for record in watch(metric, curve, rules)
        if record["state"] == "raised"
    ]


def noisy(level, steps, sd):
    return list(level + sd * RANDOM.normal(size=steps))


# The condition must hold `patience` steps in a row: it starts at the step named in the comment.
FIRES = [
    pytest.param(
        "entropy/mean", [1.0] * 5 + [0.05] * 5, [("entropy_collapse", 8)], id="collapse at 6"
    ),
    pytest.param(
        "entropy/mean", [1.0] * 5 + [2.6] * 5, [("entropy_explosion", 8)], id="explosion at 6"
    ),
    pytest.param("kl/k3", [0.01] * 4 + [0.2] * 4, [("kl_drift", 7)], id="KL above 0.1 from 5"),
    pytest.param(
        "mismatch/logprob_abs_mean",
        [1e-5] * 3 + [0.1] * 3,
        [("mismatch_drift", 6)],
        id="mismatch from 4",
    ),
    pytest.param(
        "grad_norm/max", [*noisy(1, 15, 0.2), 15.0, 1.0], [("gradient_spike", 16)], id="one spike"
    ),
    pytest.param(
        "update/skipped", [0, 1, 0], [("non_finite_gradient", 2)], id="an update was skipped"
    ),
    pytest.param(
        "update/none_in_a_row",
        [0, 1, 2, 3, 4, 0],
        [("trained_nothing", 4)],
        id="the third step in a row without an update",
    ),
    pytest.param(
        "reward/errors_frac",
        [0.0, 0.1, 0.5, 0.5],
        [("unchecked_rewards", 3)],
        id="half of the checks fail from 3",
    ),
    pytest.param(
        "steer/saturated",
        [0.0] * 3 + [1.0] * 11,
        [("steering_saturated", 13)],
        id="the target is out of reach from 4",
    ),
    pytest.param(
        "entropy/mean", [1.0, math.nan], [("non_finite_entropy", 2)], id="entropy is not a number"
    ),
    pytest.param(
        "reward/mean", [0.4] * 120, [("reward_stall", 109)], id="no gain from step 100 on"
    ),
]
SILENT = [
    pytest.param(
        "entropy/mean", list(np.linspace(1.0, 0.2, 200)), id="entropy falls slowly to a fifth"
    ),
    pytest.param(
        "entropy/mean", [1.0] * 5 + [0.05] * 2 + [0.5] * 5, id="two low steps are not three"
    ),
    pytest.param("entropy/mean", [0.02] * 20, id="low from the start is no collapse"),
    pytest.param("kl/k3", [0.2, 0.01] * 10, id="KL above the limit every other step"),
    pytest.param("grad_norm/max", noisy(1, 200, 0.3), id="noisy gradient"),
    pytest.param("grad_norm/max", [1.0, 50.0], id="too early to know what is usual"),
    pytest.param(
        "reward/mean", list(np.linspace(0.1, 0.9, 300) + noisy(0, 300, 0.02)), id="reward rises"
    ),
    pytest.param("reward/mean", [0.99] * 300, id="nothing left to gain"),
    pytest.param("reward/mean", [0.4] * 99, id="two windows are needed"),
    pytest.param("update/none_in_a_row", [1, 2, 0] * 5, id="never three steps without an update"),
    pytest.param("steer/saturated", ([1.0] * 9 + [0.0]) * 5, id="at the bounds, and back"),
    pytest.param("entropy/mean", [None] * 20, id="nothing measured"),
    pytest.param("grad_norm/max", [1.0] * 20 + [math.nan], id="a step without updates"),
]


@pytest.mark.parametrize(("metric", "curve", "expected"), FIRES)
def test_must_fire(metric, curve, expected):
    assert raised(metric, curve) == expected


@pytest.mark.parametrize(("metric", "curve"), SILENT)
def test_must_not_fire(metric, curve):
    assert watch(metric, curve) == []


def test_record_says_what_was_seen_and_since_when_and_when_it_was_over():
    records = watch("entropy/mean", [1.0] * 5 + [0.05] * 4 + [0.5])
    first, last = records
    assert first["message"] == (
        "entropy collapse: entropy/mean is 0.05 nats, "
        "below 0.1 nats = 0.1 x 1 (its value at the start), since step 6"
    )
    assert (first["step"], first["since_step"]) == (8, 6)
    assert (first["level"], first["action"]) == ("warning", "none")
    assert last["message"] == (
        "entropy collapse cleared: entropy/mean is 0.5 nats (it had held since step 6)"
    )
    assert (last["state"], last["step"], last["action"]) == ("cleared", 10, "none")


def test_a_gap_in_the_measurements_neither_raises_nor_clears():
    curve = [1.0] * 5 + [0.05, math.nan, 0.05] + [math.nan] * 2
    rules = {"entropy_collapse": RULES["entropy_collapse"]}
    assert raised("entropy/mean", curve, rules) == [("entropy_collapse", 8)]


def test_an_alarm_is_never_raised_on_a_step_that_measured_nothing():
    rules = {"kl_drift": RULES["kl_drift"] | {"patience": 3}}
    assert raised("kl/k3", [0.9, math.nan, math.nan], rules) == []
    assert raised("kl/k3", [0.9, math.nan, math.nan, 0.9], rules) == [("kl_drift", 4)]


def test_a_metric_that_is_no_number_is_silent():
    rules = {"kl_drift": RULES["kl_drift"] | {"metric": "entropy/histogram"}}
    assert raised("entropy/histogram", [[1, 2]] * 9, rules) == []


def test_a_number_of_numpy_is_one():
    assert raised("kl/k3", [np.float32(0.2)] * 9) == raised("kl/k3", [0.2] * 9) != []


def test_action_is_what_the_rule_asks_for():
    rules = {"kl_drift": RULES["kl_drift"] | {"action": "stop", "level": "error", "patience": 1}}
    assert watch("kl/k3", [1.0], rules)[0]["action"] == "stop"


def test_a_resumed_watch_goes_on_as_if_never_stopped():
    curve = noisy(1, 12, 0.2) + [0.05] * 6 + noisy(1, 12, 0.2)
    expected = watch("entropy/mean", curve)
    assert expected
    for cut in (2, 13, 16, 20):
        first, second = Alarms(AlarmsConfig(rules=RULES)), Alarms(AlarmsConfig(rules=RULES))
        records = []
        for step, value in enumerate(curve[:cut], 1):
            records += first.check({"step": step, "entropy/mean": value})
        second.load_state_dict(json.loads(json.dumps(first.state_dict())), [])
        for step, value in enumerate(curve[cut:], cut + 1):
            records += second.check({"step": step, "entropy/mean": value})
        assert records == expected


@pytest.mark.parametrize(
    "change", [{"window": 5, "baseline": "start", "value": 3.0}, {"metric": "sync/other"}]
)
def test_a_rule_that_changed_at_a_resume_knows_the_steps_before(change):
    """Three times the mean of the first five steps, 0.05: a gap of 0.3 is above it at once."""
    before = RULES["kl_drift"] | {"metric": "sync/probe_gap", "value": 9.0, "patience": 1}
    after = before | {"baseline": "start", "window": 5, "value": 3.0} | change
    past = [
        {"step": step, "sync/probe_gap": gap, "sync/other": gap}
        for step, gap in enumerate([0.05] * 5 + [0.3] * 95, 1)
    ]
    first = Alarms(AlarmsConfig(rules={"gap": before}))
    for line in past:
        first.check(line)
    resumed = Alarms(AlarmsConfig(rules={"gap": after}))
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())), past)
    (record,) = resumed.check({"step": 101, "sync/probe_gap": 0.3, "sync/other": 0.3})
    assert record["state"] == "raised"
    assert record["limit"] == pytest.approx(0.15)


def test_null_removes_a_rule():
    assert raised("kl/k3", [1.0] * 9, RULES | {"kl_drift": None}) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrik": "x"}, "metrik is no key of a rule. Did you mean 'metric'"),
        ({"kind": "bellow"}, "Did you mean 'below'"),
        ({"action": "abort"}, "must be one of none, checkpoint, stop; got 'abort'"),
        ({"patience": 0}, "patience must be >= 1, got 0"),
        ({"value": None}, "value must be a number for kind 'above', got null"),
    ],
)
def test_bad_rules_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        AlarmsConfig(rules={"kl_drift": RULES["kl_drift"] | change})


def test_default_rules_survive_a_round_trip():
    built = AlarmsConfig(rules=RULES).build()
    assert {name: asdict(rule) for name, rule in built.items()} == RULES
