"""Overrides mean what was typed, span grids, have short names, and are refused with what to type instead."""

import pytest

from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.overrides import (
    as_typed,
    grid,
    labels,
    named_settings,
    read_preset,
    refuse_nothing,
)


def test_grid_and_labels():
    assert grid(["objective.beta1=0,1", "seed=3"]) == [
        ("objective.beta1=0", "seed=3"),
        ("objective.beta1=1", "seed=3"),
    ]
    assert labels(grid(["objective.beta1=0,1", "seed=3"])) == ["beta1=0", "beta1=1"]
    assert labels([("objective.beta1=0", "papo.beta1=1"), ("papo.beta1=0", "papo.beta1=1")]) == [
        "objective.beta1=0, papo.beta1=1",
        "papo.beta1=0, papo.beta1=1",
    ]


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        pytest.param("run.name=2026_11_25", "run.name", "2026_11_25", id="an int to Hydra"),
        pytest.param("run.name=1e5", "run.name", "1e5", id="a float to Hydra"),
        pytest.param("run.name=true", "run.name", "true", id="a bool to Hydra"),
        pytest.param("run.name='1e5'", "run.name", "1e5", id="quoted already"),
        pytest.param("run.label=lr=1e-4", "run.label", "lr=1e-4", id="an equals sign"),
        pytest.param("run.label=a (b) ~c", "run.label", "a (b) ~c", id="Hydra's own signs"),
        pytest.param("run.label=β₁ é", "run.label", "β₁ é", id="letters beyond ASCII"),
        pytest.param('run.label=it\'s "x"', "run.label", 'it\'s "x"', id="quotes"),
        pytest.param("run.label=null", "run.label", None, id="null stays null"),
        pytest.param("model.revision=1_000", "model.revision", "1_000", id="text or null"),
        pytest.param("tracking.tags=[1e5,a]", "tracking.tags", ["1e5", "a"], id="list of texts"),
        pytest.param("task.levels=[1_0]", "task.levels", ["1_0"], id="text of a slot"),
        pytest.param("learner.timeout_s=1_0", "learner.timeout_s", 10, id="a number stays one"),
        pytest.param("objective.beta1=1e-1", "objective.beta1", 0.1, id="a slot's number"),
    ],
)
def test_text_is_taken_as_typed(argument, key, value):
    cfg = compose([argument])
    for part in key.split("."):
        cfg = cfg[part]
    assert cfg == value


def test_a_sweep_over_texts_keeps_them_too():
    assert grid(as_typed(["run.label=1e5,2_0"])) == [
        ('run.label="1e5"',),
        ('run.label="2_0"',),
    ]
    assert list(named_settings(["learner.lr=1e-3,1e-4"])) == ["lr=0.001", "lr=0.0001"]


def test_a_sweep_that_is_no_text(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_bytes(b"grid: {seed: [1, 2]}  # caf\xe9")
    with pytest.raises(ValueError, match=r"own\.yaml cannot be read as YAML"):
        read_preset(str(path))


@pytest.mark.parametrize("argument", ["method=glob(ce*)", "objective.beta1=interval(0,1)"])
def test_values_that_are_not_listed_are_no_axis(argument):
    with pytest.raises(ValueError, match=r"does not list its values.* Write them out: "):
        grid([argument])


@pytest.mark.parametrize("key", ["accounting.counterfactuals", "alarms.rules"])
def test_an_empty_mapping_that_changes_nothing_is_refused(key):
    """Hydra merges it into what is there."""

    def checked(arguments):
        cfg = compose(arguments)
        refuse_nothing(arguments, cfg)
        return cfg

    with pytest.raises(ValueError, match=rf"{key}={{}} changes nothing.* {key}\.\w+=null"):
        checked([f"{key}={{}}"])
    assert checked(["task=reasoning_gym", "task.params={}"]).task.params == {}
    added = checked(["task=reasoning_gym", "task.params={}", "+task.params.level=3"])
    assert added.task.params == {"level": 3}
