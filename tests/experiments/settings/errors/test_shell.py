"""An argument that cannot be read is shown as it must be typed, and what a shell did to one is said."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.errors import quoted


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
    "whole",
    [
        "objective.beta1={kind: switch, step: 585, before: 0.0, after: 0.5}",
        "+alarms.rules.foo={metric: entropy/mean, kind: below}",
        "method=[papo, uec_rl]",
        "accounting.counterfactuals.dapo={name: clip, ratio: token}",
    ],
)
def test_what_the_shell_cut_at_its_spaces_is_put_together_again(whole):
    with pytest.raises(ValueError, match="The shell cut it at its spaces") as refused:
        compose(["seed=1", *whole.split(" "), "run.steps=2"])
    assert shlex.split(str(refused.value).partition("around the whole: ")[2]) == [whole]


def test_a_schedule_that_cannot_be_read_is_shown_with_its_quotes():
    with pytest.raises(
        ValueError, match=r"must be a number or a schedule, got '\{kind:'"
    ) as refused:
        compose(["objective.beta1={kind:"])
    typed = shlex.split(str(refused.value).partition("Type it so: ")[2])
    assert len(typed) == 1 and compose(typed).objective.beta1.kind == "switch"


def test_braces_that_the_shell_took_for_a_list():
    """bash makes two arguments of beta1={kind:switch,step:585}."""
    given = ["objective.beta1=kind:switch", "objective.beta1=step:585"]
    with pytest.raises(ValueError, match=r"objective\.beta1 is given 2 times") as refused:
        compose(given)
    typed = shlex.split(str(refused.value).partition("around the whole: ")[2])
    assert typed == ["objective.beta1={kind: switch, step: 585}"]
    assert compose(["run.label=a:b"]).run.label == "a:b"
