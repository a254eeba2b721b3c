"""The forms of a user's reward, what it may return, and that its faults are named by file and line."""

import asyncio
import json
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from isentropic.records import Prompt
from isentropic.tasks.grading.outcome import Failed, Paid, as_json, from_json, parts_of
from isentropic.tasks.grading.rewards import RewardError, RewardsConfig, RewardWorkers
from isentropic.tasks.grading.worker import check_all
from isentropic.tasks.math import MathTask
from isentropic.tasks.own.paid import as_reward
from isentropic.tasks.own.places import style_of
from isentropic.tasks.own.reward import OwnReward, OwnRewardConfig, as_metadata
from isentropic.tasks.own.trial import try_reward
from isentropic.tasks.prompts import Kept

ROW = {"problem": "2 + 3", "total": 5}
PROMPT = Prompt(
    prompt_id="math/train/0",
    messages=({"role": "user", "content": "2 + 3"},),
    answer="",
    metadata=json.dumps(ROW),
)


def reward(folder, text, function="grade", **keys):
    (folder / "mine.py").write_text(text)
    config = OwnRewardConfig(file=str(folder / "mine.py"), function=function, **keys)
    return OwnReward(config, "problem")


def graded(own, *responses):
    own.enter_worker()
    return own.grade([(PROMPT, (response,)) for response in responses])


ONE = "def grade(prompt, response, row):\n    return response == str(row['total'])\n"
FORMS = {
    "one": ONE,
    "one, async": f"async {ONE}",
    "batch": """
def grade(prompts, responses, rows):
    return [float(a == str(row["total"])) for a, row in zip(responses, rows)]
""",
    "trl": """
def grade(completions, total, **columns):
    assert columns["prompts"] == ["2 + 3"] * len(total) and columns["problem"] == columns["prompts"]
    return [float(a == str(b)) for a, b in zip(completions, total)]
""",
    "trl without **columns": """
def grade(prompts, completions, total):
    return [float(a == str(b)) for a, b in zip(completions, total)]
""",
    "batch, async": """
async def grade(prompts, responses, rows):
    return (float(a == str(row["total"])) for a, row in zip(responses, rows))
""",
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_grades_the_same(tmp_path, form):
    own = reward(tmp_path, FORMS[form])
    assert graded(own, "5", "6", "5") == [1.0, 0.0, 1.0]
    assert graded(own, "5") == [1.0]
    assert own.calls_together == (form != "one")


def test_trl_gets_messages_where_the_rows_have_them(tmp_path):
    text = """
def grade(prompts, completions, **columns):
    assert prompts[0] == [{"role": "user", "content": "2 + 3"}], prompts
    return [float(completion[0]["content"] == "5") for completion in completions]
"""
    row = {"problem": [{"role": "user", "content": "2 + 3"}]}
    prompt = Prompt(prompt_id="p", messages=PROMPT.messages, answer="", metadata=json.dumps(row))
    assert reward(tmp_path, text).grade([(prompt, ("5",)), (prompt, ("6",))]) == [1.0, 0.0]


def test_the_form_is_recognised_by_the_parameters_or_given(tmp_path):
    assert style_of(lambda prompts, completions, **columns: 0) == "trl"
    assert style_of(lambda prompts, responses, rows: 0) == "batch"
    assert style_of(lambda questions, answers, rows: 0) == "batch"
    assert style_of(lambda question, text, columns: 0) == "one"
    own = reward(tmp_path, "def grade(a, b, c):\n    return [1.0] * len(b)\n", style="batch")
    assert graded(own, "x", "y") == [1.0, 1.0]


@pytest.mark.parametrize(
    "text",
    [
        "def grade(response):\n    return 1.0\n",
        "def grade(prompt, response, row, model):\n    return 1.0\n",
        "def grade(completions, completion_ids):\n    return 1.0\n",
        "def grade(response, prompt, row):\n    return 1.0\n",
        "def grade(row, prompt, response):\n    return 1.0\n",
        "def grade(responses, prompts, rows):\n    return [1.0]\n",
        "def grade(prompt, solution_str, row):\n    return 1.0\n",
    ],
)
def test_other_parameters_are_refused_with_the_forms(tmp_path, text):
    with pytest.raises(ValueError, match=r"mine.py:1: grade\(.*cannot be called.*Forms: grade"):
        reward(tmp_path, text)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("p, r, gold", "the place of 'gold' gets the row: a dict of all its columns"),
        ("prompt, response, answer", "'answer' gets the row"),
        ("prompt, response, target, truncated=False", "'target' gets the row"),
        ("question, answer, solution", "'solution' gets the row"),
        ("answer, gold, row", "'answer' gets the prompt's text"),
        ("completion, answer, row", "'completion' gets the prompt's text"),
        ("prompts, responses, answers", "'answers' gets the row"),
        ("prompt, ground_truth, row", "'ground_truth' gets the response"),
        ("prompt, model_output, expected_output", "'expected_output' gets the row"),
        ("prompt, response, gold_answer, row=None", "'gold_answer' gets the row"),
        ("prompt, response, reference", "'reference' gets the row"),
    ],
)
def test_a_name_that_says_what_is_passed_elsewhere_is_refused(tmp_path, names, says):
    """Called all the same it would compare the response with a dict, and pay 0 for ever."""
    with pytest.raises(ValueError, match=says) as error:
        reward(tmp_path, f"def grade({names}):\n    return 1.0\n")
    if "completion" not in names:
        assert "take it from the row, row['<column of the gold>']." in str(error.value)


def test_verls_form_is_refused_with_how_to_call_it(tmp_path):
    text = "def grade(data_source, solution_str, ground_truth, extra_info=None):\n    return 1.0\n"
    with pytest.raises(ValueError, match=r"That is verl's form. Call it: def grade\(prompt, resp"):
        reward(tmp_path, text)
    # As a column of the rows it is a name like any other.
    assert reward(tmp_path, "def grade(completions, ground_truth):\n    return [1.0]\n")


def test_other_names_stand_where_they_like(tmp_path):
    for names in (
        "question, text, columns",
        "prompt, answer, row, extra_info=None",
        "*arguments",
        "problem, solution, record",
        "q, student_answer, data",
        "prompt, text, row, gold=None",
    ):
        assert reward(tmp_path, f"def grade({names}):\n    return 1.0\n")


def test_a_function_whose_parameters_nobody_can_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"mine.py: grade does not say which parameters"):
        reward(tmp_path, "grade = max\n")


def test_a_call_that_the_function_does_not_take_is_explained_too(math_task):
    """It fails before any line of the file: the reason would be lost with the place."""
    task = math_task("def grade(prompts, completions, gold):\n    return [1.0]\n")
    (outcome,) = check_all(task, [(task.prompt("train", 0), ("5",))])
    assert outcome == "raised"
    assert outcome.reason.endswith(
        "mine.py:1: TypeError: grade() missing 1 required positional argument: 'gold'"
    )


@pytest.mark.parametrize(
    "text",
    [
        "def grade(p, r, row, truncated):\n    return 0.0 if truncated else 1.0\n",
        "def grade(prompts, responses, rows, truncated):\n    return [float(not t) for t in truncated]\n",
        "def grade(prompts, completions, truncated, **k):\n    return [float(not t) for t in truncated]\n",
    ],
    ids=["one", "batch", "trl"],
)
def test_a_cut_off_answer_is_said_to_who_asks(tmp_path, text):
    own = reward(tmp_path, text)
    assert own.grade([(PROMPT, ("5",), True), (PROMPT, ("5",))]) == [0.0, 1.0]


def test_a_column_named_truncated_is_what_trl_gets(tmp_path):
    text = "def grade(prompts, completions, truncated):\n    return [float(x) for x in truncated]\n"
    prompt = replace(PROMPT, metadata=json.dumps({"problem": "2 + 3", "truncated": 7}))
    assert reward(tmp_path, text).grade([(prompt, ("5",), True)]) == [7.0]


def test_parts_are_weighed_and_keep_their_names():
    paid = as_reward({"right": True, "short": 0.5}, "f:1", "grade", {"right": 2.0, "short": -1.0})
    assert (paid, parts_of(paid)) == (1.5, {"right": 1.0, "short": 0.5})
    assert as_reward({"right": 1, "short": 0.5}, "f:1", "grade") == 1.5, "without weights, the sum"
    assert parts_of(as_reward(3, "f:1", "grade")) == {}


class Secretive:
    def __repr__(self):
        raise RuntimeError("not shown")


@pytest.mark.parametrize(
    ("value", "kind", "says"),
    [
        (None, None, "grade returned None; a reward is a number"),
        ("1.0", None, "grade returned '1.0'; a reward is a number"),
        ([1.0], None, r"grade returned \[1.0\]"),
        (float("nan"), "not_finite", "grade returned nan"),
        ({"right": float("inf")}, "not_finite", "grade returned inf"),
        (10**400, "not_finite", "grade returned inf"),
        (
            {"a": 9e5, "b": 9e5},
            "not_finite",
            "weighted sum is 1.8e.06; a reward lies within ±1000000",
        ),
        (1e200, "not_finite", "grade returned 1e.200; a reward lies within ±1000000, a larger one"),
        (Secretive(), None, "grade returned <Secretive>; a reward is a number"),
        ({}, None, "the parts none"),
        ({"a/b": 1.0}, None, "a part named 'a/b'"),
        ({"wrong": 1.0}, None, "the parts wrong; task.reward.weights has right"),
    ],
)
def test_what_is_no_reward_is_an_error_and_never_zero(value, kind, says):
    weights = {"right": 1.0} if says.endswith("right") else None
    with pytest.raises(ValueError, match=says) as caught:
        as_reward(value, "mine.py:7", "grade", weights)
    assert (caught.value.place, caught.value.kind) == ("mine.py:7", kind)


def test_a_batch_of_another_length_or_no_list_is_an_error(tmp_path):
    own = reward(tmp_path, "def grade(prompts, responses, rows):\n    return [1.0]\n")
    with pytest.raises(
        ValueError, match="grade returned 1 rewards for a batch of 2 answers; it must"
    ):
        graded(own, "a", "b")
    own = reward(tmp_path, "def grade(prompts, responses, rows):\n    return 'ab'\n")
    with pytest.raises(ValueError, match="returned 'ab'; a batch of 2 answers needs a list"):
        graded(own, "a", "b")


def test_a_set_of_rewards_has_no_order_and_is_refused(tmp_path):
    text = "def grade(prompts, responses, rows):\n    return {float(r) for r in responses}\n"
    with pytest.raises(ValueError, match="a batch of 2 answers needs a list of 2 rewards"):
        graded(reward(tmp_path, text), "1", "2")


def test_a_reward_that_writes_into_what_it_gets_changes_no_other(tmp_path):
    text = """
def grade(prompts, completions, total, **columns):
    paid = [float(prompt[-1]["content"] == "2 + 3") for prompt in prompts]
    for prompt in prompts:
        prompt[-1]["content"] += " Think."
    return paid
"""
    row = {"problem": [{"role": "user", "content": "2 + 3"}], "total": 5}
    prompt = Prompt(prompt_id="p", messages=PROMPT.messages, answer="", metadata=json.dumps(row))
    own = reward(tmp_path, text)
    for _ in range(2):
        assert own.grade([(prompt, ("5",)), (prompt, ("6",))]) == [1.0, 1.0]
    assert prompt.messages[-1]["content"] == "2 + 3"


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        (ONE, False),
        ("def grade(p, r, row):\n    exec(r)\n    return 1.0\n", True),
        ("def grade(p, r, row):\n    return eval(r)\n", True),
        ("def grade(p, r, row):\n    return eval('1')\ngrade.runs_code = False\n", False),
        (f"{ONE}grade.runs_code = True\n", True),
        (f"import sympy\n{ONE}", True),
        (f"import sympy\n{ONE}grade.runs_code = False\n", False),
    ],
)
def test_a_reward_that_runs_answers_is_known_by_its_file_or_says_so(tmp_path, text, runs):
    assert bool(reward(tmp_path, text).evaluator) is runs


SYMPY = """
import sympy

def grade(prompt, response, row):
    return float(sympy.sympify(response) == row["total"])
"""


def test_no_answer_that_sympy_evaluates_decides_what_a_later_one_is_paid(math_task):
    task = Kept(math_task(SYMPY), {"train": [0]})
    assert task.runs_code and task.evaluator == "it imports sympy (line 2)"
    patch = "import isentropic.tasks.own.reward as mine; mine.as_reward = lambda *_: 1.0"
    outcomes = checked(workers(task), task.prompt("train", 0), f"exec({patch!r})", "6", "5")
    assert outcomes[1:] == [0.0, 1.0]


def test_answers_that_run_are_checked_apart(math_task):
    text = (
        "def grade(prompts, responses, rows):\n"
        "    names = [{} for _ in responses]\n"
        "    for response, mine in zip(responses, names):\n"
        "        exec(response, mine)\n"
        "    return [mine.get('result', 0.0) for mine in names]\n"
    )
    task = math_task(text)
    cheat = "import builtins\nbuiltins.float = lambda value: 1.0\nresult = 0.0"
    outcomes = checked(
        workers(Kept(task, {"train": [0]})), task.prompt("train", 0), cheat, "result = 0.0"
    )
    assert outcomes[1] == 0.0


def test_a_function_that_hides_that_it_is_async_is_told_so(tmp_path):
    text = "async def f(p, r, row):\n    return 1\ngrade = lambda p, r, row: f(p, r, row)\n"
    with pytest.raises(ValueError, match="something to be awaited: define it by `async def`"):
        graded(reward(tmp_path, text), "a")


def test_a_decimal_of_a_table_is_a_number_for_the_reward():
    row = {"price": Decimal("2.50"), "count": Decimal("7"), "day": date(2026, 1, 2)}
    assert json.loads(as_metadata(row)) == {"price": 2.5, "count": 7, "day": "2026-01-02"}


@pytest.mark.parametrize("outcome", [1.5, "raised", "not_finite"])
def test_outcomes_survive_json(outcome):
    assert from_json(json.loads(json.dumps(as_json(outcome)))) == outcome


def test_parts_and_reasons_survive_json_and_nothing_else_does():
    paid = from_json(json.loads(json.dumps(as_json(Paid(1.5, {"a": 1.0, "b": 0.5})))))
    assert (paid, parts_of(paid)) == (1.5, {"a": 1.0, "b": 0.5})
    failed = from_json(json.loads(json.dumps(as_json(Failed("raised", "f:1: no")))))
    assert (failed, failed.reason) == ("raised", "f:1: no")
    bad = (
        {"reward": 1.0},
        {"reward": "1", "parts": {}},
        {"error": 1.0, "reason": "x"},
        [1.0],
        None,
    )
    for value in (*bad, {"error": "timed_out", "reason": "x"}, "right", True):
        with pytest.raises(ValueError):
            from_json(value)


HOSTILE = """
import os, time
def grade(prompt, response, row):
    if response == "hang":
        time.sleep(3600)
    if response == "die":
        os._exit(3)
    if response == "key":
        return row["nope"]
    if response == "text":
        raise ValueError(response + "\\x1b[31m")
    return {"right": float(response == str(row["total"])), "length": float(len(response))}
"""


@pytest.fixture
def math_task(tmp_path):
    """MathTask with a reward from the text, and two rows of which none has a gold."""

    def make(text, answer_column=None, **keys):
        (tmp_path / "rows.jsonl").write_text(
            '{"problem": "2 + 3", "total": 5, "day": null}\n{"problem": "3 + 3", "total": 6}\n'
        )
        (tmp_path / "mine.py").write_text(text)
        own = OwnRewardConfig(file=str(tmp_path / "mine.py"), function="grade", **keys)
        path = str(tmp_path / "rows.jsonl")
        return MathTask(math_config(path, own, answer_column=answer_column))

    return make


def math_config(path, own, **changes):
    from isentropic.tasks.math import MathConfig

    values = dict(
        name="math", path=path, eval_path=path, train_split="train", eval_split="test",
        problem_column="problem", answer_column=None, image_column=None, limit=None,
        eval_share=0.5, system_prompt=None, suffix="", reward_right=1.0, reward_wrong=0.0,
        truncated_answer="marked", on_bad_row="refuse", on_long_prompt="refuse", reward=own,
    )  # fmt: skip
    return MathConfig(**values | changes)


def workers(task, warn=print, **changes):
    values = dict(
        workers=1, timeout_s=5.0, deadline_s=60.0, memory_gib=2.0, batch_size=8,
        reward_on_error=-7.0, max_errors_in_a_row=None,
    )  # fmt: skip
    return RewardWorkers(task, None, RewardsConfig(**values | changes), warn=warn)


def checked(made, prompt, *responses):
    try:
        return asyncio.run(made.check([(prompt, (response,)) for response in responses]))
    finally:
        made.close()


def test_the_row_reaches_the_workers_and_faults_come_back_with_file_and_line(math_task, tmp_path):
    task = math_task(HOSTILE)
    prompt = task.prompt("train", 0)
    assert json.loads(prompt.metadata) == {"problem": "2 + 3", "total": 5, "day": None}
    assert prompt.answer == ""

    made = workers(Kept(task, {"train": [0]}), timeout_s=1.0)
    outcomes = checked(made, prompt, "5", "hang", "die", "key", "text", "6")
    assert outcomes == [2.0, "timed_out", "crashed", "raised", "raised", 1.0]
    assert parts_of(outcomes[0]) == {"right": 1.0, "length": 1.0}
    path = tmp_path / "mine.py"
    assert [made.why(outcome) for outcome in outcomes] == [
        "",
        f"{path}:3: it gave no answer within rewards.timeout_s=1",
        f"{path}:3: its process ended",
        f"{path}:9: KeyError: 'nope'",
        f"{path}:11: ValueError: text [31m",
        "",
    ]


def test_each_line_of_a_fault_is_said_once_and_every_fault_is_counted(math_task):
    said = []
    made = workers(math_task(HOSTILE), warn=said.append)
    prompt = PROMPT
    for kind, reason in [("raised", "f:9: a"), ("raised", "f:9: b"), ("raised", "f:11: c")]:
        asyncio.run(made._count(Failed(kind, reason), prompt))
    assert len(said) == 2 and "f:9: a. It counts as rewards.reward_on_error=-7" in said[0]
    assert made.counts()["raised"] == 3


@pytest.mark.parametrize("form", ["one, async", "batch", "trl"])
def test_one_bad_answer_of_a_batch_costs_no_other(math_task, form):
    bad = 'raise KeyError("x")' if form == "one, async" else ""
    text = {
        "one, async": f"async def grade(p, r, row):\n    if r == 'bad':\n        {bad}\n    return 1",
        "batch": "def grade(prompts, responses, rows):\n    return [1 / (r != 'bad') for r in responses]",
        "trl": "def grade(prompts, completions, **k):\n    return [None if r == 'bad' else 1 for r in completions]",
    }[form]
    task = math_task(text)
    assert checked(workers(task), task.prompt("train", 0), "a", "bad", "b") == [1.0, "raised", 1.0]


def test_a_batch_that_raises_is_graded_again_one_by_one_by_the_same_worker(math_task):
    task = math_task(
        "def grade(prompts, responses, rows):\n    return [1 / (r != 'bad') for r in responses]\n"
    )
    items = [(task.prompt("train", 0), (response,)) for response in ("a", "bad", "b")]
    assert check_all(task, items) == [1.0, "raised", 1.0]


def test_a_batch_of_another_length_is_an_error_of_all_and_refused_before_anything_starts(math_task):
    """Asked for one answer at a time it would return one reward, and nobody would know whose."""
    task = math_task("def grade(prompts, responses, rows):\n    return [1.0]\n")
    items = [(task.prompt("train", 0), (response,)) for response in ("a", "b")]
    outcomes = check_all(task, items)
    assert outcomes == ["raised", "raised"]
    assert outcomes[1].reason.endswith(
        "mine.py:1: grade returned 1 rewards for a batch of 2 answers; it must return 2, one for "
        "each in their order"
    )
    with pytest.raises(ValueError, match=r"mine\.py:1: grade returned 1 rewards for a batch of 7"):
        try_reward(task, None, workers(task)._config)


def test_parts_that_come_and_go_are_refused_before_anything_starts(math_task):
    task = math_task(
        "def grade(p, response, row):\n"
        "    return {'right': 1.0, 'short': 0.5} if response else {'empty': -1.0}\n",
        answer_column="total",
    )
    says = r"mine\.py:1: the reward of the answer '5' .* has no part empty, which that of '' has"
    with pytest.raises(ValueError, match=says):
        try_reward(task, None, workers(task)._config)


@pytest.mark.parametrize(
    ("text", "warns"),
    [
        pytest.param("def grade(p, r, row):\n    return 0.0\n", True, id="all alike"),
        pytest.param(ONE, False, id="right ones more"),
        pytest.param("def grade(p, r, row):\n    return r != str(row['total'])\n", True, id="less"),
    ],
)
def test_a_reward_that_pays_right_answers_as_wrong_ones_is_said_at_the_start(
    math_task, text, warns
):
    said = []
    task = math_task(text, answer_column="total")
    try_reward(task, None, workers(task)._config, warn=said.append)
    assert [text.partition(": ")[2][:46] for text in said] == (
        ["A RIGHT ANSWER IS PAID NO MORE THAN A WRONG ONE"[:46]] if warns else []
    )


@pytest.mark.parametrize(
    ("text", "warns"),
    [
        pytest.param(ONE, False, id="a column is right"),
        pytest.param("def grade(p, r, row):\n    return r == row\n", True, id="a dict is none"),
    ],
)
def test_without_a_gold_the_columns_of_the_row_are_tried_as_answers(math_task, text, warns):
    said = []
    task = math_task(text)
    try_reward(task, None, workers(task)._config, warn=said.append)
    assert [text.partition(": ")[2][:42] for text in said] == (
        ["NOTHING THAT THE FIRST ROW HOLDS IS PAID MORE"[:42]] if warns else []
    )
    assert all("Tried were the columns total. See" in text for text in said)


def test_a_part_that_comes_or_goes_later_is_said_once(math_task):
    said = []
    made = workers(math_task(HOSTILE), warn=said.append)
    for parts in ({"a": 1.0}, {"a": 0.0, "b": 1.0}, {"a": 1.0}, {"b": 1.0}, {}):
        paid = Paid(1.0, parts) if parts else 1.0
        asyncio.run(made._count(paid, PROMPT))
    assert len(said) == 2
    assert "to math/train/0 has a part that others lacked, b: where it is missing it" in said[0]
    assert "lacks a part that others had, a: where it is missing it counts 0" in said[1]


def test_a_reward_that_fails_on_every_right_answer_is_refused_whatever_it_pays_others(math_task):
    text = "def grade(p, r, row):\n    return row['gold'] if '5' in r else 0.0\n"
    task = math_task(text, answer_column="total")
    says = r"fails on the right answer to the first prompt .*, '5', in all of \d forms: .*mine.py:2: KeyError: 'gold'"
    with pytest.raises(ValueError, match=says):
        try_reward(task, None, workers(task)._config)


def test_a_reward_that_always_fails_is_refused_before_anything_starts(math_task, tmp_path):
    config = workers(math_task(HOSTILE))._config
    try_reward(math_task(HOSTILE), None, config)
    with pytest.raises(ValueError, match=r"fails on an empty answer.*mine.py:2: KeyError: 'gold'"):
        try_reward(math_task("def grade(p, r, row):\n    return row['gold']\n"), None, config)
    # What cannot be loaded without the run's environment.
    text = "import os\nHOME = os.environ['HOME_OF_MINE']\ndef grade(p, r, row):\n    return 1\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME_OF_MINE", "here")
        task = math_task(text)
    with pytest.raises(
        ValueError, match=r"cannot be loaded in a reward worker.*\n(.*\n)*.*HOME_OF"
    ):
        try_reward(task, None, config)


def test_a_reward_that_broke_for_all_answers_stops_the_run_and_says_where(math_task):
    task = math_task("def grade(p, r, row):\n    return row['gold']\n")
    made = workers(task, max_errors_in_a_row=2, warn=lambda text: None)

    async def three():
        for _ in range(3):
            (outcome,) = await made.check([(task.prompt("train", 0), ("5",))])
            await made._count(outcome, task.prompt("train", 0))

    with pytest.raises(RewardError, match=r"mine.py:2: KeyError: 'gold'"):
        asyncio.run(three())
    made.close()


def test_without_a_gold_or_a_reward_there_is_nothing_to_check():
    with pytest.raises(ValueError, match=r"task.answer_column=null leaves nothing"):
        math_config("p.csv", None)
