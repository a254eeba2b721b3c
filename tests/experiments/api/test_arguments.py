"""Arguments of a wrong kind are named, with what is allowed, by every function of the API."""

from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

import isentropic

CONFIG = OmegaConf.create({"seed": 1})
NOT_A_NAME = r"name of a run"
OVERRIDES = r"overrides must be a list of texts, .* or a mapping"
COUNT = r"must be a whole number, 1 at least; got"


def branch(**options):
    given = {"run": "low", "steps": [1], "settings": ["objective.beta1=0,1"]}
    return isentropic.branch(**given | options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: isentropic.compose(None), rf"{OVERRIDES}.*got None \(NoneType\)"),
        (lambda: isentropic.compose(3), OVERRIDES),
        (lambda: isentropic.compose(b"seed=1"), OVERRIDES),
        (lambda: isentropic.compose(["seed=1", None]), OVERRIDES),
        (lambda: isentropic.compose({1: 2}), OVERRIDES),
        (lambda: isentropic.compose({"seed=1"}), rf"{OVERRIDES}.*\(set\)"),
        (lambda: isentropic.compose(CONFIG), "got a whole config"),
        (lambda: isentropic.train(None), OVERRIDES),
        (lambda: isentropic.train(CONFIG), r"has no run\.dir.*that isentropic\.compose returns"),
        (lambda: isentropic.train(OmegaConf.create({"run": 3})), r"has no run\.dir"),
        (lambda: isentropic.load_run(None), rf"name must be the {NOT_A_NAME}.*got None"),
        (lambda: isentropic.load_run(3), NOT_A_NAME),
        (lambda: isentropic.load_run(["low"]), NOT_A_NAME),
        (lambda: isentropic.load_run(""), rf"{NOT_A_NAME}.*got an empty text"),
        (lambda: isentropic.Run("low"), r"must be a Path; isentropic\.load_run takes names"),
        (lambda: isentropic.compare(None), rf"runs must be the {NOT_A_NAME}.*got None"),
        (lambda: isentropic.compare(3), NOT_A_NAME),
        (lambda: isentropic.compare(b"low"), NOT_A_NAME),
        (lambda: isentropic.compare(["low", None]), rf"each of runs must be the {NOT_A_NAME}"),
        (lambda: isentropic.compare([""]), r"each of runs .*got an empty text"),
        (lambda: isentropic.Comparison("low"), r"a list of folders; isentropic\.compare"),
        (lambda: isentropic.Comparison(["low"]), r"each of paths must be a Path"),
        (lambda: isentropic.Branches("b"), r"must be a Path; isentropic\.branch"),
        (lambda: isentropic.compare(["low"]).report(3), r"out must be the path of an HTML file"),
        (lambda: isentropic.compare(["low"]).plot(3), r"no step has the metric 3"),
        (lambda: isentropic.load_run("low").plot(None), r"no step has the metric None"),
        (lambda: isentropic.load_run("low").plot(["entropy/mean"]), r"no step has the metric \["),
        (lambda: isentropic.load_run("low").plot_entropy(ax=3), r"ax must be matplotlib axes"),
        (lambda: isentropic.load_run("low").rollouts(None), r"a step is a whole number, got None"),
        (lambda: isentropic.load_run("low").rollouts(1, split=3), r"split must be one of train"),
        (lambda: isentropic.load_run("low").tokens(1, draw="0"), r"a draw is a whole number"),
        (lambda: isentropic.load_run("low").tokens(1, attribution=3), r"has no attribution 3"),
        (lambda: branch(run=None), NOT_A_NAME),
        (lambda: branch(steps=3), r"steps must be a list of whole numbers, \[10, 20\]"),
        (lambda: branch(steps=[None]), r"steps must be a list"),
        (lambda: branch(steps=[1.5]), r"steps must be a list"),
        (lambda: branch(settings=3), r"settings must be a list of texts"),
        (lambda: branch(settings=None), r"settings must be a list of texts"),
        (lambda: branch(settings="objective.beta1=0,1"), r"settings must be a list of texts"),
        (lambda: branch(settings={"a": None}), r"settings\.a must be a list"),
        (lambda: branch(contexts=0), rf"contexts {COUNT} 0"),
        (lambda: branch(orders="2"), rf"orders {COUNT} '2'"),
        (lambda: branch(processes=True), rf"processes {COUNT} True"),
        (lambda: branch(exact="yes"), r"exact must be True or False; got 'yes'"),
        (lambda: branch(out=3), r"out must be the path of a folder"),
    ],
)
def test_a_wrong_kind_is_named(runs, call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_folder_of_runs_is_no_run_wherever_they_lie(runs, tmp_path):
    (tmp_path / "sweep").mkdir()
    with pytest.raises(ValueError, match=r"sweep is not a run folder and contains none"):
        isentropic.load_run(tmp_path / "sweep")
    (tmp_path / "sweep" / "one").symlink_to(Path(runs) / "low")
    with pytest.raises(ValueError, match=r"holds 1 run and is none itself\. Load one"):
        isentropic.load_run(tmp_path / "sweep")


def test_steps_as_data_frames_and_ranges_have_them(runs):
    for steps in (np.array([77]), range(77, 78), [77.0], "77"):
        with pytest.raises(ValueError, match=r"no branch can start after step 77"):
            branch(steps=steps)
