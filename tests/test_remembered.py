"""The tests' short cut to a config gives what Hydra composes from the files of conf/."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from isentropic.experiments.settings.conf import CONF

OVERRIDES = {
    "nothing": [],
    "a preset": ["experiment=ce_gppo_tiny"],
    "values of it": ["experiment=ce_gppo_tiny", "run.steps=6", "objective.beta1=0.25"],
    "a value without a section": ["seed=7", "run.steps=3"],
    "methods composed": ["experiment=ce_gppo_tiny", "method=[dapo,papo]", "rollout.group_size=4"],
    "a slot over a method": ["method=dapo", "objective=gspo", "learner.lr=1e-3"],
    "a value before a preset": ["learner.lr=1e-3", "experiment=ce_gppo_tiny"],
    "one key twice": ["run.steps=3", "seed=1", "run.steps=4", "seed=2"],
    "new keys": ["+alarms.rules.mine={metric: a}", "++seed=3", "++run.steps=9"],
    "a key less": ["~alarms.rules.kl_drift"],
    "a group less": ["~terms"],
    "a dotted value that reads another": ["run.name=${task.name}-x"],
    "no such choice": ["method=nonsense"],
    "no such key": ["run.stepz=3"],
    "no such section": ["nonsense=3"],
    "no group": ["+nonsense=3", "nonsense.x=3"],
    "no grammar": ["run.steps=[1"],
}


def composed(overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        try:
            cfg = compose("config", overrides, return_hydra_config=True)
        except HydraException as error:
            return f"{type(error).__name__}: {error}"
    return OmegaConf.to_yaml(cfg)


@pytest.mark.parametrize("overrides", OVERRIDES.values(), ids=OVERRIDES)
def test_a_remembered_composition_is_hydras(overrides, hydras_own):
    assert hydras_own(lambda: composed(overrides)) == composed(overrides) == composed(overrides)


def test_a_config_that_is_changed_leaves_no_trace():
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        first = compose("config", ["seed=4"])
        first.run.steps = 12345
        first.objective = None
        again = compose("config", ["seed=4"])
    assert again.run.steps != 12345 and again.objective is not None


def test_presets_of_ones_own_are_read_each_time(tmp_path):
    (tmp_path / "task").mkdir()
    own = tmp_path / "task" / "mine.yaml"
    found = []
    for steps in (3, 4):
        own.write_text(f"defaults: [arithmetic, _self_]\nsteps: {steps}\n")
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            given = [f"hydra.searchpath=['file://{tmp_path}']", "task=mine"]
            found.append(compose("config", given).task.steps)
    assert found == [3, 4]
