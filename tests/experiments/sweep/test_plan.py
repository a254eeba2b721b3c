"""Each run of a sweep is the run that the same overrides make by themselves."""

import pytest

from isentropic.experiments.settings.compose import compose_run
from isentropic.experiments.settings.overrides import parse
from isentropic.experiments.sweep.plan import compose_trials, plan_of


def trials_of(folder, *arguments, preset=None):
    plan = plan_of(preset or {}, ["experiment=ce_gppo_tiny", *arguments])
    return compose_trials(plan, folder, early_stop=False)


SWITCH = "{kind: switch, step: 5, before: 0.0, after: 0.5}"
LINEAR = "{kind: linear, from_step: 1, to_step: 10, start: 0.0, end: 1.0}"


@pytest.mark.parametrize(
    ("common", "key", "values"),
    [
        (["terms=kl"], "terms.kl", ["{estimator: k2}", "{coef: 0.02}"]),
        (["terms=kl"], "terms.kl", ["{coef: 0.02}", "{estimator: k2}"]),
        ([], "objective.beta1", [SWITCH, LINEAR]),
        ([], "objective.beta1", ["0.5", LINEAR, "0.25"]),
        (["terms=kl", "terms.kl.coef=0.5"], "terms.kl", ["{coef: 0.02}", "{estimator: k2}"]),
        ([], "tracking.tags", ["[a,b]", "[]"]),
    ],
)
def test_a_run_inherits_nothing_from_the_one_before(tmp_path, common, key, values):
    trials = trials_of(tmp_path / "s", *common, f"{key}={','.join(values)}")
    assert len(trials) == len(values)
    section = key.partition(".")[0]
    for trial, value in zip(trials, values, strict=True):
        alone = compose_run(["experiment=ce_gppo_tiny", *common, f"{key}={value}"])
        if section == "tracking":
            alone.tracking.group = "s"
        assert trial.cfg[section] == alone[section]


def test_a_later_run_with_a_wrong_value_is_refused_as_the_first_is(tmp_path):
    with pytest.raises(ValueError, match=r"^run\.steps=x: run\.steps must be a whole number"):
        trials_of(tmp_path / "s", "run.steps=3,x")


@pytest.mark.parametrize("name", ["jürgen/s", "runs (1)/s", "a,b/s", "my runs/s", "2026_11_25"])
def test_a_folder_may_have_any_name(tmp_path, name):
    trials = trials_of(tmp_path / name, "seed=0,1")
    for trial in trials:
        assert trial.config.run.dir == str(tmp_path / name / trial.name)
        assert trial.config.tracking.group == trial.cfg.tracking.group == (tmp_path / name).name


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        pytest.param("run.label", "a, b", "a, b", id="no list of two"),
        pytest.param("run.label", "lr=1e-4", "lr=1e-4", id="what Hydra cannot read"),
        pytest.param("run.label", "1e5", "1e5", id="no number"),
        pytest.param("run.label", "[a]", "[a]", id="no list"),
        pytest.param("run.label", None, None, id="null"),
        pytest.param("task.path", "dätä/x (1).jsonl", "dätä/x (1).jsonl", id="a path"),
        pytest.param("tracking.tags", ["a, b", "1_0", ""], ["a, b", "1_0", ""], id="inside a list"),
        pytest.param("task.settings", {"a": "b: c"}, {"a": "b: c"}, id="inside a mapping"),
        pytest.param("method", "[grpo,papo]", ["grpo", "papo"], id="in Hydra's words"),
        pytest.param("objective.beta1", 1e-5, 1e-5, id="a number"),
    ],
)
@pytest.mark.parametrize("part", ["grid", "random"])
def test_a_value_of_a_yaml_is_one_value(part, key, value, read):
    if part == "grid":
        preset = {"grid": {key: [value]}}
    else:
        preset = {"random": {"count": 1, "keys": {key: {"choice": [value]}}}}
    ((_, own),) = plan_of(preset, []).points()
    (override,) = parse(own)
    assert override.key_or_group == key
    assert override.value() == read


@pytest.mark.parametrize("dry", ["run.dry=true", "run={dry: true}"])
def test_a_run_of_a_sweep_is_no_dry_run(tmp_path, dry):
    with pytest.raises(ValueError, match=r"run\.dry=true is no key of a sweep's runs.* dry=true,"):
        trials_of(tmp_path / "s", "seed=0,1", dry)


ONE, TWO = ["objective.beta1=0"], ["objective.beta1=1"]
DRAWN = {"count": 2, "keys": {"objective.beta1": [0, 1]}}


@pytest.mark.parametrize(
    ("preset", "arguments", "places"),
    [
        ({"random": DRAWN}, ["objective.beta1=0.5"], "the command line and random.keys"),
        ({"random": DRAWN}, ["objective.beta1=0,1"], "the grid and random.keys"),
        ({"random": DRAWN, "grid": {"objective.beta1": [0, 1]}}, [], "the grid and random.keys"),
        ({"random": DRAWN, "overrides": ONE}, [], "the overrides and random.keys"),
        ({"random": DRAWN, "settings": {"a": ONE}}, [], "the setting 'a' and random.keys"),
        ({"settings": {"a": ONE, "b": TWO}}, TWO, "the command line and the setting 'a'"),
        ({"settings": {"a": [], "b": TWO}}, ONE, "the command line and the setting 'b'"),
        ({"settings": {"a": ONE}}, ["objective.beta1=0,1"], "the grid and the setting 'a'"),
        ({"list": [ONE, TWO]}, ["objective.beta1=0.5"], "the command line and the list"),
    ],
)
def test_a_key_in_two_places_is_refused(preset, arguments, places):
    with pytest.raises(ValueError, match=rf"^objective\.beta1 is set in two places, {places},"):
        plan_of(preset, arguments)


def test_a_setting_may_change_the_overrides_of_its_file():
    preset = {"overrides": ONE, "settings": {"a": [], "b": TWO}}
    assert plan_of(preset, ["seed=0,1"]).count == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sed": 7}, r"random\.sed is no key of random\. Did you mean 'seed'"),
        ({"seed": None}, r"random\.seed must be .*'None'.*whole number"),
        ({"seed": 0.5}, r"random\.seed must be .*'0\.5'.*whole number"),
        ({"seed": -1}, r"random\.seed must be"),
        ({"count": True}, r"random\.count must be"),
        ({"keys": {"run.name": {"choice": ["a"]}}}, r"run\.name is set by the sweep"),
    ],
)
def test_draws_that_cannot_be_made_again_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        plan_of({"random": DRAWN | changes}, [])
