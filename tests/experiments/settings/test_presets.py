"""Two presets that set one slot differently are refused, unless something that wins anyway settles it."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from isentropic.experiments.settings.compose import compose_run
from isentropic.experiments.settings.conf import CONF, take_config_dirs
from isentropic.experiments.settings.presets import (
    as_names,
    check_presets,
    conflicts,
    name_presets,
    preset_values,
)

CLIP = {"objective": "clip", "objective.clip_high": 0.28}
GPPO = {"objective": "ce_gppo", "filter": "drop_flat"}


def write(folder, **presets):
    for name, text in presets.items():
        (folder / f"{name}.yaml").write_text(text)


def test_values_of_a_preset(tmp_path):
    write(
        tmp_path,
        dapo="defaults:\n  - override /objective: clip\n  - _self_\nobjective: {clip_high: 0.28}\n",
        hot="defaults: [dapo, _self_]\nrollout: {temperature: 1.2}\n",
    )

    assert preset_values(tmp_path / "dapo.yaml") == CLIP
    assert preset_values(tmp_path / "hot.yaml") == {**CLIP, "rollout.temperature": 1.2}


def test_two_presets_that_differ_are_refused_with_both_names_and_the_slot():
    with pytest.raises(
        ValueError, match=r"method=dapo and method=gppo both set objective: 'clip' and 'ce_gppo'"
    ):
        conflicts({"dapo": CLIP, "gppo": GPPO}, settled=set())


def test_two_presets_that_agree_compose():
    conflicts({"dapo": CLIP, "twin": dict(CLIP), "other": {"filter": "keep_all"}}, settled=set())


def test_the_command_line_settles_a_conflict_and_what_is_below_it():
    conflicts(
        {"dapo": CLIP, "gppo": GPPO, "low": {"objective.clip_high": 0.2}}, settled={"objective"}
    )


def test_another_key_settles_nothing():
    with pytest.raises(ValueError, match="objective"):
        conflicts({"dapo": CLIP, "gppo": GPPO}, settled={"filter", "objective.clip_high"})


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        pytest.param(None, [], id="none"),
        pytest.param("papo", ["papo"], id="one"),
        pytest.param(["papo", "uec_rl"], ["papo", "uec_rl"], id="several"),
    ],
)
def test_as_names(choice, names):
    assert as_names(choice) == names


def composed(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", overrides=list(overrides), return_hydra_config=True)
    check_presets(cfg.hydra)
    return cfg


EXPERIMENTS = ("ce_gppo_tiny", "papo_tiny", "oger_tiny", "uec_rl_tiny")


@pytest.mark.parametrize("method", sorted(path.stem for path in (CONF / "method").glob("*.yaml")))
def test_a_method_of_the_command_line_is_the_method(method):
    """Beside an experiment, too: what an experiment sets itself would win over it in silence."""
    wanted = preset_values(CONF / "method" / f"{method}.yaml")
    for experiment in EXPERIMENTS:
        choices = composed(f"experiment={experiment}", f"method={method}").hydra.runtime.choices
        assert {key: choices[key] for key in wanted if key in choices} == {
            key: value for key, value in wanted.items() if key in choices
        }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        pytest.param(
            ["method=dapo"],
            "experiment=ce_gppo_7b sets objective: 'ce_gppo', and would win",
            id="slot",
        ),
        pytest.param(
            ["objective=dapo"],
            r"sets objective\.clip_high=0\.2 for its own objective=ce_gppo",
            id="value",
        ),
    ],
)
def test_an_experiment_that_would_overrule_the_command_line_is_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        composed("experiment=ce_gppo_7b", *overrides)


@pytest.mark.parametrize("method", sorted(path.stem for path in (CONF / "method").glob("*.yaml")))
def test_a_method_sets_nothing_inside_a_slot(method):
    """It would hold for another choice of that slot too, which the command line may make."""
    values = preset_values(CONF / "method" / f"{method}.yaml")
    slots = {key for key in values if "." not in key}
    assert not [key for key in values if "." in key and key.partition(".")[0] in slots]


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        pytest.param(["method=grpo_original", "terms=none"], "terms", {"name": "none"}, id="terms"),
        pytest.param(
            ["method=ce_gppo_official", "objective=clip"],
            "objective.dual_clip",
            None,
            id="objective",
        ),
        pytest.param(
            ["method=entrocraft_code", "steering=none"], "steering", {"name": "none"}, id="steering"
        ),
        pytest.param(
            ["method=ce_gppo_steered", "terms=nll"],
            "terms",
            {"name": "nll", "nll": {"coef": 0.1}},
            id="a bonus that it began with",
        ),
    ],
)
def test_a_slot_of_the_command_line_has_nothing_of_the_methods_choice(overrides, key, value):
    assert OmegaConf.select(composed(*overrides), key) == value


def test_what_a_method_of_ones_own_sets_inside_a_slot_is_refused_for_another_choice(tmp_path):
    (tmp_path / "method").mkdir()
    write(
        tmp_path / "method",
        mine="# @package _global_\ndefaults: [override /terms: kl, _self_]\n"
        "terms: {kl: {coef: 0.2}}\n",
    )
    take_config_dirs([f"--config-dir={tmp_path}"])
    try:
        assert compose_run(["method=mine"]).terms.kl.coef == 0.2
        for chosen in ("terms=kl_uec", "terms=none"):
            with pytest.raises(
                ValueError, match=r"method=mine sets terms\.kl\.coef=0\.2 for its own"
            ):
                compose_run(["method=mine", chosen])
        said = compose_run(["method=mine", "terms=kl_uec", "terms.kl.coef=0.3"])
        assert said.terms.kl.coef == 0.3
    finally:
        take_config_dirs([])


def test_a_value_that_the_other_choice_has_too_is_no_matter():
    choice = composed("experiment=ce_gppo_1p5b", "objective=ce_gppo_dual", "task.path=p.csv")
    assert (choice.objective.beta1, choice.objective.dual_clip) == (0.5, 10.0)


def test_what_the_command_line_says_itself_is_settled():
    with pytest.raises(ValueError, match="both"):
        composed("experiment=ce_gppo_tiny", "method=[dapo,gspo]")
    assert composed("experiment=uec_rl_tiny", "method=[uec_rl,papo]").uec.explore_size == 8
    assert (
        composed("experiment=ce_gppo_tiny", "method=dapo", "objective=gspo").objective.ratio
        == "sequence"
    )


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        pytest.param([], "ce_gppo", id="nothing chosen: the default's objective"),
        pytest.param(["experiment=ce_gppo_tiny"], "ce_gppo", id="an experiment without a method"),
        pytest.param(["experiment=ce_gppo_tiny", "method=dapo"], "dapo", id="not its objective"),
        pytest.param(["experiment=papo_tiny"], "papo", id="the method of an experiment"),
        pytest.param(["experiment=papo_tiny", "method=grpo"], "grpo", id="the command line's wins"),
        pytest.param(["method=[papo,uec_rl]"], "papo + uec_rl", id="two that compose"),
        pytest.param(["method=dapo", "objective=gspo"], "dapo + gspo", id="objective beside it"),
        pytest.param(["objective=dapo"], "dapo", id="an objective preset"),
        pytest.param(["method=dapo", "run.preset=mine"], "mine", id="given"),
        pytest.param(["method=gspo", "objective=gspo"], "gspo", id="one name is said once"),
    ],
)
def test_the_presets_name(overrides, name):
    cfg = composed(*overrides)
    name_presets(cfg, cfg.hydra)
    assert cfg.run.preset == name
