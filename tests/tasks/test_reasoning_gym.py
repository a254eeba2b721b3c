"""Generators by name, what travels with their prompts, their scores, and answers that no evaluator may see."""

import ast
import inspect
import math
import pickle
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import generators as survey

from isentropic.tasks import reasoning_gym
from isentropic.tasks.own.reward import OwnRewardConfig
from isentropic.tasks.reasoning_gym import (
    EVALUATE_ANSWERS,
    ReasoningGymConfig,
    ReasoningGymTask,
    extract,
    generators,
)

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
    truncated_answer="marked",
    allow_nonsense=False,
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


def test_a_reward_of_ones_own_reads_the_item(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "def grade(prompt, response, row):\n"
        "    assert row['question'] in prompt and 'difficulty' in row['metadata']\n"
        "    return {'right': response == row['answer'], 'short': len(response) < 9}\n"
    )
    own = OwnRewardConfig(file=str(path), function="grade")
    task = ReasoningGymTask(replace(CONFIG, reward=own))
    prompt = task.prompt("eval", 1)
    plain = ReasoningGymTask(CONFIG).prompt("eval", 1)
    assert (prompt.messages, prompt.answer) == (plain.messages, plain.answer)
    assert task.place == f"{path}:1"
    again = pickle.loads(pickle.dumps(task))  # as a worker has it
    for mine in (task, again):
        assert mine.grade(prompt, [prompt.answer]) == 2.0
        assert mine.grade_truncated(prompt, ["not that"]) == 1.0


def test_rows_have_keys_of_text_as_json_needs_them():
    row = {"board": {(0, 1): {2, 1}, 3: [{None: (1,)}]}}
    as_json = {"board": {"(0, 1)": [1, 2], "3": [{"None": [1]}]}}
    assert reasoning_gym._with_text_keys(row) == as_json


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


def plain_config(generator, **changes):
    return replace(CONFIG, generator=generator, params={}, answer_pattern=None, **changes)


@pytest.mark.parametrize(
    "generator", ["chain_sum", "knights_knaves", "graph_color", "tower_of_hanoi"]
)
def test_what_is_graded_travels_with_the_prompt(generator):
    """Another task of the same generator, with other items, grades it alike: nothing is made again."""
    prompt = ReasoningGymTask(plain_config(generator)).prompt("train", 3)
    other = pickle.loads(pickle.dumps(ReasoningGymTask(plain_config(generator, seed=1))))
    assert other.grade(prompt, [prompt.answer]) == 1.0
    ast.literal_eval(prompt.metadata)  # plain data


def test_what_travels_is_plain_data():
    value = {"a": [np.int64(3), (np.str_("b"), 0.5)], 1: {np.bool_(True)}, None: Fraction(1, 2)}
    plain = reasoning_gym._plain_data({**value, "inf": math.inf})
    assert plain == {"a": [3, ("b", 0.5)], 1: {True}, None: "1/2", "inf": "inf"}
    assert ast.literal_eval(repr(plain)) == plain


@pytest.mark.parametrize(
    ("answer", "right", "same"),
    [
        ("0", "0", True),
        ("0", "0.0", True),
        ("0", "0 days", True),
        ("0", "-0.0004", True),  # within the tolerance of a score
        ("0", "0.3", False),
        ("nan", "nan", True),
        ("nan", "3 - 2i", False),
        ("", "", True),
        ("", "x", False),
    ],
)
def test_what_is_no_nonsense(answer, right, same):
    assert reasoning_gym._same(answer, right) is same


PAYLOADS = (
    "__import__('pathlib').Path('pwned').touch() or 1",
    'sin(\'__import__("pathlib").Path("pwned").touch()\')',
    "exp(\"open('pwned', 'w')\")",
    "[open('pwned', 'w')]",
    "(1 # comment\n + open('pwned', 'w'))",
    "9**9**9",
)


@pytest.mark.parametrize("generator", EVALUATE_ANSWERS)
def test_code_in_an_answer_is_not_run(generator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = survey.unchecked(generator)
    prompt = task.prompt("train", 0)
    assert task.grade(prompt, [prompt.answer]) == 1.0
    for payload in PAYLOADS:
        assert task.grade(prompt, [payload]) == 0.0
    assert not list(tmp_path.iterdir())


def rows_of(board):
    return [row.split() for row in board.split("\n")]


# A right answer, written in another way, and what the generator pays for that.
OTHER_WAYS = {
    "binary_matrix": (lambda right: str([list(map(int, row)) for row in rows_of(right)]), 0.1),
    "countdown": (lambda right: f"({right})", 1.0),
    "intermediate_integration": (lambda right: f"7 + {right}", 1.0),
    "n_queens": (lambda right: str(rows_of(right)), 0.5),
    "polynomial_multiplication": (lambda right: f"0 + {right}", 1.0),
    "puzzle24": (lambda right: f"({right})", 1.0),
    "simple_integration": (lambda right: f"7 + {right}", 1.0),
    "spiral_matrix": (lambda right: str(list(map(int, right.split()))), 0.1),
    "string_insertion": (lambda right: str(list(right)), 0.1),
}


@pytest.mark.parametrize("generator", EVALUATE_ANSWERS)
def test_what_evaluators_are_for_is_still_graded(generator):
    task = survey.unchecked(generator)
    prompt = task.prompt("train", 0)
    rewrite, reward = OTHER_WAYS[generator]
    assert task.grade(prompt, [rewrite(prompt.answer)]) == reward


def test_every_right_board_of_queens_is_paid():
    task = ReasoningGymTask(plain_config("n_queens", train_size=200))
    prompts = [task.prompt("train", index) for index in range(200)]
    checked = 0
    for prompt in prompts:
        boards = ast.literal_eval(prompt.metadata)["metadata"]["valid_answers"]
        assert [task.grade(prompt, [board]) for board in boards] == [1.0] * len(boards)
        checked += len(boards) > 1
    assert checked, "else this test shows less than it says"


EVALUATORS = {"eval", "exec", "compile", "sympify", "parse_expr", "parse_latex", "literal_eval"}
EVALUATORS |= {"lambdify", "__import__", "system", "check_output", "load", "unsafe_load", "solve"}
# These evaluate text of their own items, and never the answer.
THEIR_OWN = {"bitwise_arithmetic", "number_sorting"}


def test_no_other_generator_evaluates_an_answer():
    """Every call that `score_answer` can reach, in every generator, by the names in its source."""
    from reasoning_gym.factory import DATASETS

    found = {name for name, (kind, _) in DATASETS.items() if called(kind) & EVALUATORS}
    assert found - THEIR_OWN == set(EVALUATE_ANSWERS)


def called(kind):
    """Names that `score_answer` calls, through the functions and methods of its own module."""
    module = sys.modules[kind.__module__]
    own = {
        node.name: node
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.FunctionDef)
    }
    names, waiting = set(), ["score_answer"]
    while waiting:
        name = waiting.pop()
        if name in names:
            continue
        names.add(name)
        for node in ast.walk(own[name]) if name in own else ():
            if isinstance(node, ast.Call):
                function = node.func
                waiting.append(
                    function.attr
                    if isinstance(function, ast.Attribute)
                    else getattr(function, "id", "")
                )
    return {name for name in names if name not in own}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generator": "chain_sums"}, "Did you mean 'chain_sum'"),
        ({"params": {"min_term": 2}}, "Did you mean 'min_terms'"),
        (
            {"params": {"min_terms": 5, "max_terms": 2}},
            r"refuses task.params.* the generator's own are \{'min_terms': 2, 'max_terms': 6\}",
        ),
        ({"params": {"seed": 5}}, "task.seed"),
        ({"answer_pattern": "("}, "regular expression"),
        ({"generator": "list_functions"}, "list_functions is refused: it makes another item"),
        (
            {"generator": "ransom_note"},
            "ransom_note is refused: its items depend on PYTHONHASHSEED",
        ),
        (
            {"generator": "rush_hour"},
            "rush_hour is refused: it does not say what a right answer is",
        ),
        ({"generator": "composite"}, "composite is refused: it mixes other generators"),
        ({"generator": "complex_arithmetic"}, "pays 1 for 'nan'(.|\n)*task.allow_nonsense=true"),
        ({"generator": "game_of_life_halting"}, "pays 1 for 'nan'(.|\n)*task.allow_nonsense=true"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        ReasoningGymTask(replace(CONFIG, **change))


def test_nonsense_may_be_allowed():
    task = ReasoningGymTask(plain_config("complex_arithmetic", allow_nonsense=True))
    assert task.grade(task.prompt("train", 0), ["nan"]) == 1.0


def test_parameters_under_which_nonsense_pays_are_refused(monkeypatch):
    """The table speaks of a generator's own parameters; the first item of the user's is tried at the start."""
    table = generators()
    row = {**table["generators"]["complex_arithmetic"], "nonsense": ""}
    rows = {**table["generators"], "complex_arithmetic": row}
    monkeypatch.setattr(reasoning_gym, "generators", lambda: {**table, "generators": rows})
    with pytest.raises(ValueError, match=r"pays in full for 'nan'(.|\n)*task.allow_nonsense=true"):
        ReasoningGymTask(plain_config("complex_arithmetic"))


def test_another_version_is_refused(monkeypatch):
    table = generators()
    monkeypatch.setattr(reasoning_gym, "generators", lambda: {**table, "version": "0.1.99"})
    with pytest.raises(ValueError, match=r"checked in version 0\.1\.99(.|\n)*pip install"):
        ReasoningGymTask(CONFIG)


def test_a_score_that_raises_on_an_answer_costs_that_answer():
    task = ReasoningGymTask(plain_config("prime_factorization"))
    prompt = task.prompt("train", 0)
    rewards = survey.grade(task, [(prompt, "2, 3 and 5"), (prompt, prompt.answer)])
    assert rewards == [survey.ERROR, 1.0]


# One of each kind: accepted, example for an answer, numpy inside, raising, evaluating, refused for each reason.
SAMPLE = [
    "chain_sum",
    "coin_flip",
    "complex_arithmetic",
    "composite",
    "countdown",
    "graph_color",
    "isomorphic_strings",
    "knights_knaves",
    "list_functions",
    "prime_factorization",
    "rush_hour",
    "string_manipulation",
]


def verdicts(rows):
    """Whether, not why: items that differ at random differ in another process too."""
    return {name: (bool(row["refused"]), row["nonsense"]) for name, row in rows.items()}


def test_the_table_says_what_is_found_again():
    table = verdicts(generators()["generators"])
    assert verdicts(survey.check(SAMPLE)) == {name: table[name] for name in SAMPLE}


@pytest.mark.slow
def test_the_table_of_all_generators():
    """How many items are looked at depends on the machine: what is found is in the table, not the other way round."""
    table, found = generators()["generators"], survey.check(survey.all_generators())
    assert list(table) == list(found)
    for name, (refused, nonsense) in verdicts(found).items():
        assert table[name]["refused"] or (not refused and table[name]["nonsense"] == nonsense), name


def test_the_page_is_the_tables():
    assert survey.PAGE.read_text(encoding="utf-8") == survey.page(generators()["generators"])


def test_a_thousand_sums_are_graded_one_by_one_in_seconds():
    task = ReasoningGymTask(CONFIG)
    prompt = task.prompt("train", 0)
    started = time.monotonic()
    assert set(survey.grade(task, [(prompt, f"<answer>{prompt.answer}</answer>")] * 1000)) == {1.0}
    assert time.monotonic() - started < 30  # 1.5 where nothing else runs


def test_a_response_that_was_cut_off_needs_its_pattern():
    def reward(pattern, response, setting="marked"):
        task = ReasoningGymTask(replace(CONFIG, answer_pattern=pattern, truncated_answer=setting))
        prompt = task.prompt("train", 0)
        return task.grade_truncated(prompt, [response.format(prompt.answer)])

    assert reward(None, "{}") < reward(None, "{}", "any") == 1.0
    assert reward(CONFIG.answer_pattern, "<answer>{}</answer> so") == 1.0
    assert reward(CONFIG.answer_pattern, "<answer>{}") == 0.0
