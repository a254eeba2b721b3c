"""Overrides mean what was typed, span grids, have short names, and are refused with what to type instead."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from isentropic.config import flat
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.conf import compose_raw, groups
from isentropic.experiments.settings.errors import CHOSEN_BY, SYNONYMS, quoted
from isentropic.experiments.settings.overrides import (
    as_typed,
    grid,
    labels,
    named_settings,
    read_preset,
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


@pytest.mark.parametrize("text", ["", "a", "'", '"', "\\", "\\'", '\\\\"', "a'b\"c\\", "é=(~)"])
def test_quoted_is_read_back_to_the_letter(text):
    override = OverridesParser.create().parse_override(f"x={quoted(text)}")
    assert override.value() == text


@pytest.mark.parametrize(
    "argument",
    ["learner.lr=a~b", "task.levels=[a=b,c]", "tracking.tags=[a b,(c)]", "seed=é=", "seed=[1"],
)
def test_what_cannot_be_read_is_shown_as_it_must_be_typed(argument):
    with pytest.raises(ValueError, match="Type it so: ") as refused:
        compose([argument])
    typed = shlex.split(str(refused.value).partition("Type it so: ")[2])
    assert len(typed) == 1 and OverridesParser.create().parse_override(typed[0])


@pytest.mark.parametrize(
    ("argument", "kind", "example"),
    [
        ("run.steps=²", "a whole number, got '²'", r"run\.steps=\d+"),
        ("run.steps=1,2", "a whole number, got '1,2'", r"run\.steps=\d+"),
        ("learner.lr=a~b", "a number, got 'a~b'", r"learner\.lr=0\.\d+"),
        ("run.dry=[", r"true or false, got '\['", "run.dry=false"),
        # Their default is null, which says nothing of what they take.
        ("cluster.object_store_gib=2 GiB)", "a number or null, got '2 GiB\\)'", ".*=null"),
        ("cluster.object_store_gib=1,2", "a number or null, got '1,2'", ".*=null"),
        ("alarms.rules.entropy_collapse.ceiling=1,2", "a number or null, got '1,2'", ".*=null"),
        ("+alarms.rules.mine.patience=1,2", "a whole number, got '1,2'", ".*=1"),
    ],
)
def test_a_key_that_takes_no_text_says_what_it_takes(argument, kind, example):
    with pytest.raises(ValueError, match=rf"must be {kind}\. Type it so: {example}$") as refused:
        compose([argument])
    compose([str(refused.value).partition("Type it so: ")[2]])


@pytest.mark.parametrize(
    ("argument", "typed"),
    [
        ("run.label=a,b", 'run.label="a,b"'),
        ("task.levels=2x1,3x1", 'task.levels=["2x1","3x1"]'),
        ("tracking.tags=a,b", 'tracking.tags=["a","b"]'),
    ],
)
def test_a_value_with_a_comma_is_shown_as_it_must_be_typed(argument, typed):
    with pytest.raises(ValueError, match="gives several values, and a run takes one") as refused:
        compose([argument])
    assert "Ambiguous" not in str(refused.value)
    assert shlex.split(str(refused.value).partition("Type it so: ")[2]) == [typed]
    compose([typed])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("learner.beta1=0.9", r"learner\.beta1 is now learner\.adam_beta1$"),
        ("+learner.eps=1", r"learner\.eps is now learner\.adam_eps$"),
        ("learner.learning_rate=1", r"Did you mean 'learner\.lr'\?"),
        ("learning_rate=1", r"Did you mean 'learner\.lr'\?"),
        ("rollout.batch_size=1", r"Did you mean 'rollout\.prompts_per_step'"),
        ("num_generations=8", r"Did you mean 'rollout\.group_size'\?"),
        ("rollout.n=8", r"Did you mean 'rollout\.group_size'\?"),
        ("rollout.max_new_tokens=8", r"Did you mean 'rollout\.max_response_tokens'\?"),
        ("actor_rollout_ref.rollout.n=8", r"Did you mean 'rollout\.group_size'\?"),
        ("data.train_files=a", r"Did you mean 'task\.path'\? \(with task=math\)"),
        ("trainer.total_epochs=1", r"Did you mean 'run\.steps'\?"),
        ("generate_max_len=8", r"Did you mean 'rollout\.max_response_tokens'\?"),
        ("kl_coef=1", r"Did you mean 'terms\.kl\.coef'\?"),
        ("method=[[dapo]]", r"method must be chosen by name, got \[\['dapo'\]\]"),
        ("model=3", "model must be chosen by name, got 3"),
        ("experiment=null", "experiment must be chosen by name, got None"),
        ("run.label=a\0b", "has a NUL in it"),
    ],
)
def test_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        compose([argument])


def test_a_sweep_that_is_no_text(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_bytes(b"grid: {seed: [1, 2]}  # caf\xe9")
    with pytest.raises(ValueError, match=r"own\.yaml cannot be read as YAML"):
        read_preset(str(path))


def keys_of(*overrides):
    return {*groups(), *flat(OmegaConf.to_container(compose_raw(overrides), resolve=False))}


def test_every_key_that_stands_for_anothers_exists():
    """Those that the defaults lack say which choice has them."""
    default = keys_of()
    assert {key for key in SYNONYMS.values() if key not in default} == set(CHOSEN_BY)
    for key, choice in CHOSEN_BY.items():
        assert key in keys_of(choice)
