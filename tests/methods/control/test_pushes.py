"""EntroPIC, REPO-R and the sign-controlled bound: their rules on numbers worked out by hand."""

import json
import math

import numpy as np
import pytest

from isentropic.methods.control.controller import Effects
from isentropic.methods.control.entropic import EntropicConfig
from isentropic.methods.control.repo_r import RepoRConfig, repo_advantage
from isentropic.methods.control.sign_bound import SignBoundConfig

UNMEASURED = Effects(change=math.nan, rest=math.nan, slopes={})


def entropic(**changes):
    values = {"name": "entropic", "target": 0.1, "proportional": 1.0, "integral": 0.01}
    return EntropicConfig(**{**values, "tokens": "all", "p_high": 0.95, **changes}).build({})


def test_entropic_adds_to_both_signs(new):
    control = entropic()
    control.sense(1, 0.3)
    (pushed,) = control.push([new.sample(advantage=[1.0, -1.0, 0.0])])
    np.testing.assert_allclose(pushed.advantage, [1.2, -0.8, 0.0], rtol=1e-6)
    control.sense(2, 0.3)  # I = 0.2: alpha = 0.2 + 0.01 * 0.2
    assert control.observe(2, 0.3, UNMEASURED) == pytest.approx(
        {"entropic/alpha": 0.202, "entropic/integral": 0.4}
    )


def test_entropic_on_confident_tokens_only(new):
    control = entropic(tokens="confident", p_high=0.5)
    control.sense(1, 0.3)
    sure, unsure = new.sample(advantage=-1.0), new.sample(advantage=-1.0)
    sure.old.logprob[:], unsure.old.logprob[:] = -0.1, -0.7  # p 0.905 and 0.497
    pushed = control.push([sure, unsure])
    assert [sample.advantage[0] for sample in pushed] == pytest.approx([-0.8, -1.0])


def test_entropic_at_its_limit_stops_integrating():
    control = entropic(proportional=4.0)
    for step in (1, 2, 3):
        control.sense(step, 0.5)
    assert control.state_dict() == {"integral": 0.0, "alpha": 1.0} and control.aim(3).saturated
    control.sense(4, 0.0)
    assert control.state_dict() == pytest.approx({"integral": -0.1, "alpha": -0.4})


@pytest.mark.parametrize("proportional", [0.0, 0.01, 1.0])
def test_entropic_comes_back_from_its_limit(proportional):
    """600 steps far above the target fill the integral; below it the push turns round in as few."""
    control = entropic(proportional=proportional)
    for step in range(600):
        control.sense(step, 0.5)
    assert control.state_dict()["alpha"] == 1.0
    for step in range(600):
        control.sense(step, 0.0)
    assert control.state_dict()["alpha"] < 0.6


def test_entropic_on_target_changes_no_sample(new):
    control, sample = entropic(), new.sample()
    control.sense(1, 0.1)
    control.sense(2, math.nan)
    assert control.push([sample])[0] is sample


@pytest.mark.parametrize(
    ("advantage", "logprob", "expected"),
    [
        pytest.param(1.0, -2.0, 1.2, id="rewarded: 1 + 0.1 * 2"),
        pytest.param(-1.0, -2.0, -0.8, id="punished: 1 - 0.1 * 2"),
        pytest.param(-1.0, -12.0, 0.0, id="punished, log p < -1/z: floored, not turned around"),
        pytest.param(0.0, -12.0, 0.0, id="nothing to weigh"),
    ],
)
def test_repo_advantage(advantage, logprob, expected):
    got = repo_advantage(np.array([advantage]), np.array([logprob]), 0.1)
    np.testing.assert_allclose(got, [expected], rtol=1e-12)


def repo(**changes):
    values = {"name": "repo_r", "start_entropy": None, "start": 0.01, "least": 0.004, "most": 0.03}
    return RepoRConfig(**{**values, **changes}).build({})


def test_repo_doubles_below_the_start_and_halves_above_it():
    control, trace = repo(), []
    for step, entropy in enumerate([0.5, 0.4, 0.4, 0.5, 0.6, 0.6, 0.6, math.nan], start=1):
        control.sense(step, entropy)
        trace.append((control.state_dict()["z"], control.aim(step).saturated))
    assert trace == [
        (0.01, False), (0.02, False), (0.03, True), (0.03, False),
        (0.015, False), (0.0075, False), (0.004, True), (0.004, True),
    ]  # fmt: skip


def test_repo_weighs_by_the_old_logprob(new):
    control = repo(start=0.02, start_entropy=0.5)
    control.sense(1, 0.5)
    (pushed,) = control.push([new.sample(advantage=[1.0, -1.0])])  # log p = -0.5
    np.testing.assert_allclose(pushed.advantage, [1.01, -0.99], rtol=1e-6)


def bound(**changes):
    values = {"name": "sign_bound", "target": 0.3, "epsilon": 0.6, "change": 0.25, "most": 0.6}
    start = {"clip_low": 0.2, "clip_high": 0.2}
    return SignBoundConfig(**{**values, **changes}).build(start)


def test_the_bound_widens_while_the_entropy_is_too_low():
    control, added = bound(), []
    for step, entropy in enumerate([0.1, 0.1, 0.2, 0.2, 0.3, 0.4, math.nan], start=1):
        control.sense(step, entropy)
        values = control.values(step)
        added.append(values["clip_high"] - 1.5)  # 1 / 0.4 - 1
        assert values["clip_low"] == 0.6
    assert added == pytest.approx([0, 0.25, 0.5, 0.6, 0.6, 0.35, 0.35])
    assert control.aim(7).mode == -1


def test_the_bound_saturates_at_both_ends():
    control = bound()
    control.sense(2, 0.9)
    assert control.aim(2).saturated and control.observe(2, 0.9, UNMEASURED) == {
        "sign_bound/added": 0.0
    }
    control.sense(3, 0.1)
    assert not control.aim(3).saturated


def test_the_bound_needs_an_objective_with_bounds():
    values = {"name": "sign_bound", "target": 0.3, "epsilon": 0.6, "change": 0.25, "most": 0.6}
    with pytest.raises(ValueError, match="sets clip_high"):
        SignBoundConfig(**values).build({"clip_low": 0.2, "clip_high": None})


@pytest.mark.parametrize("make", [entropic, repo, bound])
def test_the_state_goes_on_exactly(make):
    one, other = make(), make()
    entropies = [0.5, 0.2, 0.05, 0.4]
    for step, entropy in enumerate(entropies, start=1):
        one.sense(step, entropy)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for step, entropy in enumerate(entropies, start=5):
        one.sense(step, entropy), other.sense(step, entropy)
        assert one.state_dict() == other.state_dict() and one.aim(step) == other.aim(step)


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (entropic, {"target": -1}, "steering.target"),
        (entropic, {"tokens": "some"}, "steering.tokens"),
        (entropic, {"p_high": 1.0}, "p_high"),
        (repo, {"start": 0.1}, "steering.start"),
        (repo, {"most": 0.001}, "steering.most"),
        (bound, {"epsilon": 1.0}, "steering.epsilon"),
        (bound, {"most": 0}, "steering.most"),
    ],
)
def test_bad_settings(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
