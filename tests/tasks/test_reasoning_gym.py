"""Generators by name, their scores, and answers that must not be evaluated."""

from dataclasses import replace

import pytest

from isentropic.tasks.reasoning_gym import ReasoningGymConfig, ReasoningGymTask, extract, is_plain

CONFIG = ReasoningGymConfig(
    name="reasoning_gym",
    generator="chain_sum",
    params={"min_terms": 2, "max_terms": 2},
    train_size=20,
    eval_size=5,
    seed=0,
    system_prompt=None,
    suffix=" Answer:",
    answer_pattern="(?s)<answer>(.*?)</answer>",
    on_long_prompt="refuse",
)


def test_items_their_answers_and_scores():
    task = ReasoningGymTask(CONFIG)
    prompts = [
        task.prompt(split, index)
        for split in ("train", "eval")
        for index in range(task.size(split))
    ]
    assert len({prompt.messages[0]["content"] for prompt in prompts}) == 25
    for prompt in prompts:
        assert task.grade(prompt, [f"so <answer>{prompt.answer}</answer>"]) == 1.0
        assert task.grade(prompt, ["<answer>x</answer>"]) < 0.1
        assert task.grade(prompt, [prompt.answer]) == 0.0  # not where the pattern looks


@pytest.mark.parametrize(
    ("pattern", "response", "answer"),
    [
        (None, " 42 ", "42"),
        (r"-?\d+", "12 + 30 = 42.", "42"),
        (r"-?\d+", "none", None),
        ("<a>(.*?)</a>", "<a>1</a> or <a>2</a>", "2"),
    ],
)
def test_extract(pattern, response, answer):
    assert extract(response, pattern) == answer


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("(1 + 2) * 3", True),
        ("[[0, 1], [1, 0]]", True),
        ("x**2 + sin(x) + C", True),
        ("__import__('os').system('id')", False),
        ("x.__class__", False),
        ("[open for x in [1]]", False),
        ("lambdify(x)", False),
        ("1 +", False),
    ],
)
def test_only_plain_expressions_are_evaluated(text, plain):
    assert is_plain(text) is plain


def test_code_in_an_answer_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = ReasoningGymTask(replace(CONFIG, generator="countdown", params={}, answer_pattern=None))
    prompt = task.prompt("train", 0)
    assert task.grade(prompt, ["__import__('pathlib').Path('pwned').touch() or 1"]) == 0.0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generator": "chain_sums"}, "Did you mean 'chain_sum'"),
        ({"params": {"min_term": 2}}, "Did you mean 'min_terms'"),
        ({"params": {"min_terms": 5, "max_terms": 2}}, "refuses task.params"),
        ({"params": {"seed": 5}}, "task.seed"),
        ({"answer_pattern": "("}, "regular expression"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        ReasoningGymTask(replace(CONFIG, **change))
