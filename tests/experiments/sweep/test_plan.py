"""Each run of a sweep is the run that the same overrides make by themselves."""

import pytest

from isentropic.experiments.settings.compose import compose_run
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
