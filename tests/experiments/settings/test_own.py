"""The short form of a task or objective of one's own, as it is typed and as it is loaded."""

import pytest

from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.load import load
from isentropic.experiments.settings.own import own_choice

OBJECTIVE = """
def f(log_ratio, advantage, *, power=1.0, floor=None):
    return -advantage * log_ratio * power, {}
"""
TASK = """
class Words:
    def __init__(self, size, letters=("a",)):
        self.letters = letters
    size = prompt = grade = print
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a blank in its name, and the files in it."""
    folder = tmp_path / "my files"
    folder.mkdir()
    (folder / "objective.py").write_text(OBJECTIVE)
    (folder / "task.py").write_text(TASK)
    (folder / "reward.py").write_text("def grade(prompt, response, row):\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)
    return folder


def test_an_objective_by_file_and_name_loads_with_its_settings(folder):
    given = "objective={file: 'my files/objective.py', name: f, power: 0.5}"
    config = load(compose(["experiment=ce_gppo_tiny", given])).objective
    assert (config.name, config.file, config.function_name) == ("own", "my files/objective.py", "f")
    assert config.at(1) == {"power": 0.5, "floor": None}

    schedule = "objective.settings.power={kind: switch, step: 2, before: 1.0, after: 0.0}"
    later = load(compose(["experiment=ce_gppo_tiny", given, schedule])).objective
    assert [later.at(step)["power"] for step in (1, 2)] == [1.0, 0.0]


def test_a_task_by_file_and_class_loads_with_its_settings(folder):
    given = "task={file: 'my files/task.py', class: Words, size: 3, letters: [a, 'b c']}"
    config = load(compose(["model=smollm2-135m", given])).task
    assert (config.class_name, config.settings) == ("Words", {"size": 3, "letters": ["a", "b c"]})


def test_a_reward_is_a_section_of_the_task(folder):
    reward = "task.reward={file: 'my files/reward.py', function: grade, weights: {a: 1, b: -0.5}}"
    config = load(compose(["model=smollm2-135m", "task=rows", "task.path=p.csv", reward])).task
    assert (config.reward.function, config.reward.weights) == ("grade", {"a": 1.0, "b": -0.5})
    assert config.reward.code.path == "my files/reward.py"


def test_a_reward_may_be_given_key_by_key(folder):
    """One of our errors says so: task.reward is a section of keys, set one of its keys."""
    keys = ["task.reward.file='my files/reward.py'", "task.reward.function=grade"]
    for task in (["task=rows"], ["task=math", "task.answer_column=null"]):
        overrides = ["model=smollm2-135m", *task, "task.path=p.csv", *keys]
        reward = load(compose([*overrides, "task.reward.weights.a=2"])).task.reward
        assert (reward.function, reward.weights) == ("grade", {"a": 2.0})
    with pytest.raises(
        ValueError, match=r"weights must be a section of keys, each a number or null"
    ):
        load(compose([*overrides, "task.reward.weights={a: high}"]))
    with pytest.raises(ValueError, match=r"unknown config key 'task.reward.fil'.*reward.file"):
        load(compose([*overrides, "task.reward.fil=x"]))


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ("task=arithmetic", r"task=arithmetic takes no .* its prompts have no fields"),
        ("task=calculator", r"task=calculator takes no .* several turns"),
        (
            "task={file: 'my files/task.py', class: Words, size: 3}",
            r"task=own takes no .* its class has a grade",
        ),
    ],
)
def test_a_task_that_takes_no_reward_is_refused_with_the_reason(folder, task, why):
    whole = "task.reward={file: 'my files/reward.py', function: grade}"
    for given in (whole, "task.reward.file='my files/reward.py'"):
        says = (
            rf"unknown config key 'task\.reward': {why}.*rows, math and its presets, reasoning_gym"
        )
        with pytest.raises(ValueError, match=says):
            load(compose(["model=smollm2-135m", task, given]))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("objective={file: x.py}", "must name the file and what is in it"),
        ("task={class: Words}", "must name the file and what is in it"),
        (
            "objective={file: x.py, name: f}",
            "objective.file=x.py cannot be read as Python: No such",
        ),
        ("task=words", "task"),
        ("task.reward={file: 'my files/reward.py', function: grad}", "Did you mean 'grade'"),
        ("task.reward={file: x.py, function: grade, styl: trl}", "task.reward.styl"),
    ],
)
def test_what_cannot_be_meant_is_refused(folder, given, says):
    with pytest.raises(ValueError, match=says):
        load(compose(["model=smollm2-135m", "task=math", "task.path=p.csv", given]))


def test_other_arguments_stay_as_they_are():
    for argument in (
        "task=math",
        "objective=dapo,clip",
        "run.name={a: 1}",
        "--help",
        "objective={",
    ):
        assert own_choice(argument) == [argument]
