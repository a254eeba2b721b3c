"""From one state, the same updates under each setting: only what a setting changes may differ."""

import asyncio
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf

from isentropic.experiments.branch.arms import changed, settings_of_run
from isentropic.experiments.branch.branch import BRANCHES, append, branch
from isentropic.experiments.branch.point import Comparison, expected_reward
from isentropic.experiments.branch.workers import stretches
from isentropic.experiments.commands.branch import OPTIONS, branch_points
from isentropic.experiments.run.recorded import RecordedRun
from isentropic.experiments.settings.compose import compose_run
from isentropic.experiments.settings.overrides import named_settings
from isentropic.metrics.entropy import first_wave
from isentropic.metrics.sinks.jsonl import read_lines
from isentropic.records import Prompt, TokenScores
from isentropic.tasks.data.digest import DataDigest


def made(recorded, out, named, points, *, processes=1, orders=1):
    folder, prepared = recorded
    run = RecordedRun(folder)
    settings = tuple(settings_of_run(run.values, named))
    comparison = Comparison(run=run, settings=settings, exact=False, contexts=9, orders=orders)
    asyncio.run(
        branch(comparison, prepared, points, out, processes=processes, say=lambda text: None)
    )
    return read_lines(out / BRANCHES)[0]


NAMED = {
    "as it was": (),
    "copy": ("objective.beta2=1.0",),
    "still": ("learner.lr=0",),
    "GRPO": ("method=grpo",),
}


@pytest.fixture(scope="module")
def rows(recorded, tmp_path_factory):
    found = made(recorded, tmp_path_factory.mktemp("branches"), NAMED, [0, 3])
    return {(row["step"], row["setting"]): row for row in found}


@pytest.mark.parametrize("point", [0, 3])
def test_equal_settings_give_equal_bits(rows, point):
    one, two = rows[point, "as it was"], rows[point, "copy"]
    assert {**one, "setting": ""} == {**two, "setting": ""}


@pytest.mark.parametrize("point", [0, 3])
def test_only_the_setting_moves_it(rows, point):
    base, still = rows[point, "as it was"], rows[point, "still"]
    assert (still["kl_k1"], still["kl_k3"]) == (
        0.0,
        0.0,
    )  # lr 0: the branch point itself, so the state came back
    assert base["kl_k3"] > 0
    assert base["entropy"] != still["entropy"]
    assert base["entropy_trained"] != base["entropy_held_out"]
    assert 0 <= base["reward"] <= 1
    assert 0 < base["reward_effective"] < 1


def test_branches_do_not_lead_the_walk_astray(rows, recorded, tmp_path):
    """A point reached through other points, and their branches, is the point reached alone."""
    alone = made(recorded, tmp_path, NAMED, [3])
    assert {row["setting"]: row for row in alone} == {label: rows[3, label] for label in NAMED}


def test_processes_give_the_same_rows(rows, recorded, tmp_path):
    """In their order, whichever process was first."""
    folder, prepared = recorded
    data = DataDigest(None)
    data.add("train", Prompt(prompt_id="0", messages=(), answer=""))
    # Fakes are of this process; tests of `prepare` send what is real.
    travels = (folder, replace(prepared, task=None, chat=None, data=data))
    assert made(travels, tmp_path, NAMED, [0, 3], processes=2) == list(rows.values())


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        pytest.param(1, [[1, 2, 3, 5, 8]], id="one"),
        pytest.param(2, [[1, 2], [3, 5, 8]], id="two"),
        pytest.param(9, [[1], [2], [3], [5], [8]], id="more than points"),
    ],
)
def test_stretches(count, expected):
    assert stretches([1, 2, 3, 5, 8], count) == expected


def test_a_point_is_the_mean_over_orders(rows, recorded, tmp_path):
    """Several orders give other branches than one, the same every time; settings share them."""
    for folder in ("a", "b"):
        found = made(recorded, tmp_path / folder, NAMED, [0], orders=4)
        twice = {row["setting"]: row for row in found}
        assert {**twice["as it was"], "setting": ""} == {**twice["copy"], "setting": ""}
        assert twice["still"]["entropy"] == pytest.approx(rows[0, "still"]["entropy"], rel=1e-12)
        assert twice["as it was"]["entropy"] != rows[0, "as it was"]["entropy"]
    assert (tmp_path / "a" / BRANCHES).read_text() == (tmp_path / "b" / BRANCHES).read_text()
    with pytest.raises(ValueError, match="branches of other settings"):
        made(recorded, tmp_path / "a", NAMED, [0], orders=1)


def test_expected_reward(recorded):
    """The policy has come to write the second of two three times as often: (1*0 + 3*1) / 4."""
    rollouts = first_wave(RecordedRun(recorded[0]).batch(1).rollouts)[:2]
    rollouts = [replace(each, reward=float(n)) for n, each in enumerate(rollouts)]
    scores = {each.key: scores_of(each, total=n * math.log(3)) for n, each in enumerate(rollouts)}
    reward, effective = expected_reward(scores, rollouts)
    assert reward == pytest.approx(3 / 4, abs=1e-6)
    assert effective == pytest.approx((1 + 3) ** 2 / (2 * (1 + 9)), abs=1e-6)


def scores_of(rollout, total):
    """A policy under which the whole response's logprob is `total` more than the engine's was."""
    logprob = rollout.rollout_logprob.astype(np.float64) + total / rollout.num_response_tokens
    return TokenScores(logprob=logprob, entropy=logprob, sensitivity=logprob, sum_p2=logprob)


def test_what_is_there_is_not_made_again(recorded, tmp_path):
    named = {"a": (), "b": ("learner.lr=0",)}
    first = made(recorded, tmp_path, named, [0])
    marked = [row | {"entropy": -1.0} for row in first]
    (tmp_path / BRANCHES).write_text("".join(json.dumps(row) + "\n" for row in marked))
    append(tmp_path, [marked[0] | {"step": 1}])  # killed inside the point of step 1

    again = made(recorded, tmp_path, named, [0, 1])

    assert again[:2] == marked
    assert [(row["step"], row["setting"]) for row in again[2:]] == [(1, "a"), (1, "b")]
    assert again[2]["entropy"] > 0
    with pytest.raises(ValueError, match="branches of other settings"):
        made(recorded, tmp_path, {"c": ()}, [0])


@pytest.mark.parametrize(
    ("text", "points"),
    [
        pytest.param("1,3", [1, 3], id="a list"),
        pytest.param("0:4:2", [0, 2, 4], id="a range, its end included"),
        pytest.param("every:2", [0, 2, 4], id="every second"),
        pytest.param(None, [1, 2, 3, 4], id="all with an update before, up to forty"),
    ],
)
def test_branch_points(recorded, text, points):
    assert branch_points(text, RecordedRun(recorded[0])) == points


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("5", "no branch can start after step 5", id="the last step has none after it"),
        pytest.param("3:1", "Choose from 0 to 4", id="an empty range"),
        pytest.param("first", "cannot be read", id="no steps at all"),
        pytest.param("every:0", ">= 1", id="every none"),
    ],
)
def test_bad_branch_points(recorded, text, message):
    with pytest.raises(ValueError, match=message):
        branch_points(text, RecordedRun(recorded[0]))


def test_a_choice_brings_its_whole_section(recorded):
    values = RecordedRun(recorded[0]).values
    new = changed(values, ["objective=dapo", "objective.clip_low=0.1"])
    assert new["objective"] == {
        "name": "clip",
        "ratio": "token",
        "clip_low": 0.1,
        "clip_high": 0.28,
        "dual_clip": None,
    }
    assert {key: value for key, value in new.items() if key != "objective"} == {
        key: value for key, value in values.items() if key != "objective"
    }
    assert values["objective"]["name"] == "ce_gppo"  # the recorded config itself is as it was
    np.testing.assert_equal(changed(values, ["method=gspo"])["reduction"]["name"], "sequence_mean")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param("objective.beta3=1", "Did you mean 'objective.beta2'", id="misspelled key"),
        pytest.param(
            "rollout.group_size=4", "cannot differ between branches", id="the rollouts are drawn"
        ),
        pytest.param("objective=gspoo", "Did you mean 'gspo'", id="misspelled choice"),
        pytest.param("method=grpoo", "Did you mean 'grpo'", id="misspelled method"),
        pytest.param("objective.beta1=high", "must be a number", id="a word for a number"),
        pytest.param(
            "objective.beta1.step=3", "has no parts. Give the whole", id="part of a number"
        ),
        pytest.param("reweight=polarity", "needs that method: method=<name>", id="a slot alone"),
    ],
)
def test_settings_that_cannot_be(recorded, override, message):
    with pytest.raises(ValueError, match=message):
        settings_of_run(RecordedRun(recorded[0]).values, named_settings([override]))


@pytest.mark.parametrize(
    "override", ["objective.beta1=0,1", "method=grpo,gspo", "objective=clip,gspo"]
)
def test_several_values_are_no_arm(recorded, override):
    with pytest.raises(ValueError, match=rf"{override} are several values, and an arm has one"):
        settings_of_run(RecordedRun(recorded[0]).values, {"both": [override]})


def test_what_a_choice_takes_from_elsewhere_is_the_runs():
    """Length of responses, steps, seed and shape of a batch are those that were drawn, not the defaults."""
    own = ["rollout.max_response_tokens=16", "rollout.group_size=4", "run.steps=400", "seed=3"]
    values = OmegaConf.to_container(compose_run(["experiment=ce_gppo_tiny", *own]), resolve=True)
    methods = ("dapo", "flexec", "entrocraft", "uec_rl", "papo")
    arms = {
        arm.label: arm.config
        for arm in settings_of_run(values, {name: [f"method={name}"] for name in methods})
    }
    assert arms["dapo"].shaping.max_response_tokens == 16
    assert arms["flexec"].steering.total_steps == 400
    assert arms["entrocraft"].steering.low["to_step"] == 401
    assert (arms["uec_rl"].reuse.unit, arms["uec_rl"].reuse.seed) == ((64, 4), 3)
    assert arms["papo"].reweight.alpha == 0.2, "a method's own values are its own"


def test_an_objective_of_ones_own_in_its_short_form(recorded, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from isentropic.objectives import TokenLoss\n"
        "def f(log_ratio, advantage, *, power):\n"
        "    return TokenLoss(-(log_ratio.exp() * advantage) * power, {})\n"
    )
    own = f"objective={{file: {path}, name: f, power: 2.0}}"
    (arm,) = settings_of_run(RecordedRun(recorded[0]).values, {"own": [own]})
    assert (arm.config.objective.name, arm.config.objective.settings) == ("own", {"power": 2.0})


def test_command_line():
    options, overrides = OPTIONS.parse(
        ["run=x", "steps=1,2", "branch.exact=true", "objective.beta1=0,1", "method=grpo,gspo"]
    )
    assert options == {"run": "x", "steps": "1,2", "exact": True}
    assert overrides == ["objective.beta1=0,1", "method=grpo,gspo"]
    for arguments, message in (
        (["steps=1"], "which run"),
        (["run=x", "stepps=1"], "Did you mean 'steps'"),
    ):
        with pytest.raises(ValueError, match=message):
            OPTIONS.parse(arguments)
