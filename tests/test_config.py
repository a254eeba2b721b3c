"""Keys of yesterday lead to those of today; names and paths are ones that a file system can hold."""

import re

import pytest
from omegaconf import OmegaConf

from isentropic.config import (
    RENAMED,
    check_label,
    check_name,
    flat,
    is_under,
    method_name,
    with_current_keys,
)
from isentropic.experiments.run.folder import read_config
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.load import load, plain_config
from isentropic.metrics.report.run_data import read_run


def test_flat_and_under():
    assert flat({"objective": {"beta1": 0.5, "x": {}}, "seed": 1}) == {
        "objective.beta1": 0.5,
        "seed": 1,
    }
    assert is_under("learner.lr", ("learner",)) and is_under("seed", ("seed",))
    assert not is_under("learner_lr", ("learner",))


@pytest.fixture
def of_yesterday():
    """The default config as an earlier release wrote it."""
    values = plain_config(compose(["learner.adam_beta2=0.95", "cluster.address=auto"]))
    for old, new in RENAMED.items():
        section, _, name = old.partition(".")
        values[section][name] = values[section].pop(new.partition(".")[2])
    return values


def test_a_recorded_config_is_read_under_the_names_of_today(of_yesterday, tmp_path):
    assert of_yesterday["learner"]["beta2"] == 0.95
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(of_yesterday))

    for values in (read_config(tmp_path), read_run(tmp_path).config):
        assert load(OmegaConf.create(values)).learner.adam_beta2 == 0.95
        assert not set(RENAMED) & set(flat(values))
    assert of_yesterday["learner"]["beta2"] == 0.95  # what was given is as it was


def test_objective_beta_is_another_key():
    values = {"objective": {"beta1": 0.5}, "learner": {"beta1": 0.9}}
    translated = with_current_keys(values)
    assert translated["objective"] == {"beta1": 0.5}
    assert translated["learner"]["adam_beta1"] == 0.9
    assert "beta1" not in translated["learner"]


def test_a_config_that_still_has_an_old_key_is_refused_by_its_new_name(of_yesterday):
    with pytest.raises(ValueError, match=r"learner\.\w+ is now learner\.adam_"):
        load(OmegaConf.create(of_yesterday))


@pytest.mark.parametrize(
    ("values", "name"),
    [
        pytest.param({"run": {"preset": "dapo"}, "objective": {"name": "clip"}}, "dapo", id="now"),
        pytest.param({"run": {"name": "a"}, "objective": {"name": "clip"}}, "clip", id="older run"),
        pytest.param({"objective": None}, "", id="neither"),
    ],
)
def test_a_method_is_called_by_its_preset(values, name):
    assert method_name(values) == name
    assert method_name(with_current_keys(values)) == name


@pytest.mark.parametrize("name", ["", ".", "../x", "a b", "-x", "é", "x" * 65, "a\0b"])
def test_names_that_no_folder_should_have(name):
    with pytest.raises(ValueError, match=r"run\.name must be 1 to 64 letters"):
        check_name("run.name", name)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("runs/" + "é" * 128, "a name of 256 bytes"),
        ("a\0b", "must be a path"),
        ("", "must be a path"),
    ],
)
def test_a_folder_that_cannot_be(folder, message):
    cfg = compose()
    cfg.run.dir = folder
    with pytest.raises(ValueError, match=rf"run\.dir .*{message}"):
        load(cfg)


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        # vLLM would sample at 0.01 without an error.
        ("rollout.temperature=0.001", ">= 0.01 and <= 2"),
        ("rollout.temperature=0", ">= 0.01 and <= 2, got 0.0. Greedy"),
        ("rollout.temperature=2.5", ">= 0.01 and <= 2"),
        ("sampling.temperature=0.001", ">= 0.01 and <= 2"),
        ("sampling.temperature=2.5", ">= 0.01 and <= 2"),
        ("rollout.top_k=0", "-1 (off) or >= 1"),
        ("rollout.top_k=-2", ">= -1"),
        ("rollout.timeout_s=0.5", ">= 1"),
        ("learner.timeout_s=0.5", ">= 1"),
        ("rollout.segment_tokens=0", ">= 1, got 0. Write null to write every rollout to its end"),
        ("rollout.prompts_in_flight=0", ">= 1"),
        ("rollout.max_lag=-1", ">= 0"),
        ("evaluation.temperature=0.001", "0 (greedy) or >= 0.01"),
        ("evaluation.temperature=-1", ">= 0 and <= 2"),
        ("evaluation.temperature=2.5", ">= 0 and <= 2"),
        ("checkpoint.stop_within_s=0.5", ">= 1"),
        ("cluster.startup_timeout_s=0.5", ">= 1"),
        ("cluster.health_timeout_s=0.5", ">= 1"),
        ("cluster.object_store_gib=0.07", ">= 0.075"),
        (f"seed={2**63}", f"<= {2**63 - 1}"),
        ("seed=-1", ">= 0"),
    ],
)
def test_values_that_would_fail_late_or_be_changed_are_refused(override, allowed):
    key = override.partition("=")[0]
    with pytest.raises(ValueError, match=re.escape(f"{key} must be {allowed}")):
        load(compose([override, "cluster.address=auto"]))


@pytest.mark.parametrize(
    "override",
    [
        "rollout.temperature=0.01",
        "rollout.temperature=2",
        "rollout.top_k=1",
        "rollout.timeout_s=1",
        "rollout.segment_tokens=1",
        "evaluation.temperature=0.01",
        "evaluation.temperature=2",
        "checkpoint.stop_within_s=1",
        "cluster.object_store_gib=0.075",
        f"seed={2**63 - 1}",
    ],
)
def test_values_at_their_bounds_are_accepted(override):
    load(compose([override, "cluster.address=auto"]))


def test_allowed_changes_are_keys():
    for known in ("run.steps", "objective", "objective.dual_clip", "papo.alpha", "alarms.rules"):
        cfg = compose([f"resume.allow_changes=[{known}]", "objective=gspo", "cluster.address=auto"])
        assert load(cfg).resume.allow_changes == (known,)
    with pytest.raises(ValueError, match=r"'runsteps', which is no config key\. Did you mean 'run"):
        load(compose(["resume.allow_changes=[runsteps]"]))


def test_an_older_run_graded_what_was_cut_off_like_the_rest():
    assert with_current_keys({"task": {"name": "math"}})["task"]["truncated_answer"] == "any"
    assert with_current_keys({"task": {"name": "arithmetic"}})["task"] == {"name": "arithmetic"}
    kept = {"name": "math", "truncated_answer": "marked", "reward": None}
    assert with_current_keys({"task": kept})["task"] == kept


@pytest.mark.parametrize(("segment", "lag"), [(None, 4), (8, 9)])
def test_a_lag_that_an_older_run_did_not_read_does_not_keep_it_from_going_on(segment, lag):
    recorded = {"rollout": {"segment_tokens": segment, "max_lag": 9}}
    assert with_current_keys(recorded)["rollout"]["max_lag"] == lag


@pytest.mark.parametrize(("wrong", "paid"), [(0.0, 0.0), (-1.0, -1.0), (None, 0.0)])
def test_an_older_run_whose_failed_checks_paid_more_than_wrong_answers_goes_on(wrong, paid):
    task = {"name": "math"} | ({} if wrong is None else {"reward_wrong": wrong})
    recorded = {"task": task, "rewards": {"reward_on_error": 0.0}}
    assert with_current_keys(recorded)["rewards"]["reward_on_error"] == paid
    recorded["rewards"]["reward_on_error"] = -7.0
    assert with_current_keys(recorded)["rewards"]["reward_on_error"] == -7.0


def test_an_older_od_began_by_lowering():
    assert with_current_keys({"steering": {"name": "flexec"}})["steering"]["start_raising"] is False
    assert with_current_keys({"steering": {"name": "entropic"}})["steering"] == {"name": "entropic"}


def test_an_older_steer_took_its_maximum_over_the_whole_minibatch():
    """In the slot, as the base of another objective, and in a panel; what is given stays."""
    old, new = (
        {"name": "steer", "floor": 0.02},
        {"name": "steer", "floor": 0.02, "microbatch": None},
    )
    panel = {"accounting": {"counterfactuals": {"a": old, "b": {"name": "clip"}, "c": None}}}
    values = with_current_keys({"objective": {"name": "erc", "base": old}, **panel})
    assert with_current_keys({"objective": old})["objective"] == new
    assert values["objective"] == {"name": "erc", "base": new}
    assert values["accounting"]["counterfactuals"] == {"a": new, "b": {"name": "clip"}, "c": None}
    given = {"objective": {"name": "steer", "microbatch": 8}}
    assert with_current_keys(given)["objective"] == given["objective"]


@pytest.mark.parametrize("label", ["learner", "role=learner", "role:", ":learner", "role:a:b"])
def test_a_label_is_a_name_and_a_value(label):
    check_label("cluster.learner_label", None)
    check_label("cluster.learner_label", "example.org/role:learner")
    with pytest.raises(ValueError, match=r"cluster\.learner_label must be name:value"):
        check_label("cluster.learner_label", label)
