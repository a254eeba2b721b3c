"""Files to prompts, bad rows to errors with their line, answers to rewards."""

import json
import pickle
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest

from isentropic.records import Prompt
from isentropic.records import is_right as is_right_reward
from isentropic.tasks.answers.equal import is_right
from isentropic.tasks.math import MathConfig, MathTask

CONFIG = MathConfig(
    name="math",
    path="",
    eval_path=None,
    train_split="train",
    eval_split="test",
    problem_column="problem",
    answer_column="answer",
    image_column=None,
    limit=None,
    eval_share=0.25,
    system_prompt=None,
    suffix=" Box it.",
    reward_right=1.0,
    reward_wrong=-1.0,
    truncated_answer="marked",
    on_bad_row="refuse",
    on_long_prompt="refuse",
)
ROWS = [{"problem": f"What is {n} + 1?", "answer": str(n + 1), "source": "x"} for n in range(40)]


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "sums.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    return replace(CONFIG, path=str(file))


def problems(task, split):
    return [task.prompt(split, index).messages[-1]["content"] for index in range(task.size(split))]


def test_rows_become_prompts_and_a_share_is_held_out(data):
    task = MathTask(data)
    together = problems(task, "train") + problems(task, "eval")
    assert sorted(together) == sorted(row["problem"] + " Box it." for row in ROWS)
    assert task.size("eval") == 10  # a quarter of 40
    assert problems(MathTask(data), "eval") == problems(task, "eval")


def test_copies_of_a_problem_are_not_parted(data):
    with open(data.path, "a") as file:
        file.write("\n".join(map(json.dumps, ROWS)))
    task = MathTask(data)
    assert not set(problems(task, "train")) & set(problems(task, "eval"))


def test_parquet_and_a_file_of_its_own_for_eval(data, tmp_path):
    table = tmp_path / "held_out.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS[:3]), table)
    task = MathTask(replace(data, eval_path=str(table), system_prompt="Be brief.", limit=10))
    assert (task.size("train"), task.size("eval")) == (10, 3)
    assert task.prompt("eval", 0).messages[0] == {"role": "system", "content": "Be brief."}
    assert task.prompt("eval", 2).answer == "3"


BAD = {
    "{'problem'": "not JSON",
    '"text"': "not an object but str",
    '{"problem": "p"}': "no column 'answer'",
    '{"problem": "p", "Answer": "2"}': "Did you mean 'Answer'?",
    '{"problem": "p", "answer": null}': "answer is null, not text",
    '{"problem": "p", "answer": [1, 2]}': "answer is a list of 2, not text, such as [1, 2]",
    '{"problem": "p", "answer": NaN}': "answer is not a finite number",
    '{"problem": 7, "answer": "2"}': "problem is int, not text, such as 7",
    '{"problem": null, "answer": "2"}': "problem is null, not text",
    '{"problem": [], "answer": "2"}': "does not end with one of the user",
    '{"problem": [{"role": "user", "content": null}], "answer": "2"}': "content is null, not text",
    '{"problem": [{"role": "human", "content": "p"}], "answer": "2"}': "whose role is none of",
    '{"problem": [{"role": "user", "content": [{"type": "image"}]}], "answer": "2"}': "not text",
    '{"problem": "p", "answer": "}{"}': "cannot be read as an answer",
    '{"problem": "p", "answer": "\\\\boxed{}"}': "cannot be read as an answer",
    '{"problem": "p", "answer": "$$"}': "cannot be read as an answer",
    '{"problem": "p", "answer": "18}"}': "cannot be read as an answer, so that no response could be",
    '{"problem": " ", "answer": "2"}': "problem is empty",
    '{"problem": "a\\u0000b", "answer": "2"}': "not text",
    "[" * 100_000: "not JSON",
}


@pytest.mark.parametrize(("line", "reason"), BAD.items(), ids=range(len(BAD)))
def test_a_bad_row_is_refused_with_its_line_or_skipped_and_counted(data, line, reason):
    with open(data.path, "a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(ValueError, match="1 bad row") as error:
        MathTask(data)
    assert f"{data.path}:42: " in str(error.value) and reason in str(error.value)
    task = MathTask(replace(data, on_bad_row="skip"))
    assert (task.num_skipped, task.size("train") + task.size("eval")) == (1, 40)


def test_bad_rows_are_told_once_per_kind(data):
    bad = ['{"problem": "p"}'] * 25 + ['{"problem": "p", "answer": "}{"}'] + ["{"] * 2
    with open(data.path, "a") as file:
        file.write("\n".join(bad))
    with pytest.raises(ValueError, match=r"28 bad row\(s\) in .*, 40 good") as error:
        MathTask(data)
    lines = str(error.value).splitlines()[1:-1]
    assert [line.strip().removeprefix(data.path) for line in lines] == [
        ":41 and 24 more (42, 43, 44, 45, 46, ...): no column 'answer'. Columns: problem",
        ":67 and 1 more (68): not JSON, such as 'Expecting property name enclosed in double quotes: line 2 c",
        ":66: answer cannot be read as an answer, so that no response could be right, such as '}{'",
    ]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        pytest.param(b"", "a.jsonl", "no usable row", id="empty"),
        pytest.param(b"\xff\xfe\n", "a.jsonl", "a.jsonl:1: not JSON", id="not UTF-8"),
        pytest.param(
            b"problem,answer\n\xff,1\n", "a.csv", "a.csv is not UTF-8", id="csv, not UTF-8"
        ),
        pytest.param(b"PAR1 no", "a.parquet", "not a parquet file", id="broken parquet"),
        pytest.param(
            None, "sum.jsonl", "no file .*sum.jsonl.*Did you mean 'sums.jsonl'", id="missing"
        ),
    ],
)
def test_files_that_cannot_be_used(data, tmp_path, content, name, message):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        MathTask(replace(data, path=str(file)))


def test_code_in_an_answer_stays_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_right("\\boxed{__import__('os').system('touch pwned')}", "18")
    assert not list(tmp_path.iterdir())


def test_prompts_say_what_a_right_answer_pays(data):
    task = MathTask(replace(data, reward_right=5.0, reward_wrong=-1.0))
    for split in ("train", "eval"):
        prompt = task.prompt(split, 0)
        assert is_right_reward(task.grade(prompt, [f"\\boxed{{{prompt.answer}}}"]), prompt)
        assert not is_right_reward(task.grade(prompt, ["no"]), prompt)
        assert not is_right_reward(1.0, prompt)


def test_rewards_are_the_config_s_and_workers_get_no_rows(data):
    task = MathTask(data)
    prompt = task.prompt("train", 0)
    copy = pickle.loads(pickle.dumps(task))
    assert copy.grade(prompt, [f"\\boxed{{{prompt.answer}}}"]) == 1.0
    assert copy.grade(prompt, ["\\boxed{-5}"]) == -1.0
    assert len(pickle.dumps(task)) < 2000


def test_an_image_travels_as_a_reference(data, tmp_path):
    file = tmp_path / "figures.jsonl"
    file.write_text("\n".join(json.dumps(row | {"image": f"{row['answer']}.png"}) for row in ROWS))
    task = MathTask(replace(data, path=str(file), image_column="image"))
    prompts = [task.prompt("train", index) for index in range(task.size("train"))]
    assert all(prompt.media == (f"{prompt.answer}.png",) for prompt in prompts)
    assert MathTask(data).prompt("train", 0).media == ()


ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 1?"}]


def of_rows(data, tmp_path, rows, **changes):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    changes = {"path": str(file), "eval_path": str(file), **changes}
    return MathTask(replace(data, **changes))


def test_rows_as_verl_writes_them(data, tmp_path):
    row = {"prompt": ASKED, "reward_model": {"style": "rule", "ground_truth": "2"}}
    columns = {"problem_column": "prompt", "answer_column": "reward_model.ground_truth"}
    prompt = of_rows(data, tmp_path, [row], **columns).prompt("train", 0)
    assert prompt.answer == "2"
    assert prompt.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 1 + 1? Box it."},
    )
    with pytest.raises(ValueError, match=r"Did you mean 'reward_model\.ground_truth'"):
        of_rows(data, tmp_path, [row], **columns | {"answer_column": "reward_model.truth"})
    with pytest.raises(ValueError, match=r"prompt has a system message of its own"):
        of_rows(data, tmp_path, [row], **columns, system_prompt="Think.")


def test_messages_in_parts_and_earlier_turns_stay_in_order(data, tmp_path):
    talk = [
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"text": "1 + 1?"}]},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And doubled?"},
    ]
    prompt = of_rows(data, tmp_path, [{"problem": talk, "answer": 4}]).prompt("eval", 0)
    assert [message["content"] for message in prompt.messages] == [
        "What is 1 + 1?",
        "2",
        "And doubled? Box it.",
    ]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (204, "204"),
        (204.0, "204"),
        (0.5, "0.5"),
        (-3, "-3"),
        (1e20, "1e+20"),
        ("204", "204"),
        (["204"], "204"),
        (True, "true"),
        (0.1 + 0.2, "0.3"),
        ("0.30000000000000004", "0.3"),
        ("0.10000000149011612", "0.1"),
    ],
)
def test_answers_of_any_type(data, tmp_path, answer, text):
    prompt = of_rows(data, tmp_path, [{"problem": "p", "answer": answer}]).prompt("train", 0)
    assert prompt.answer == text
    assert is_right(f"\\boxed{{{text}}}", prompt.answer)


@pytest.mark.parametrize(
    ("response", "marked", "any_"),
    [
        ("1 + 1 = 2", -1.0, 1.0),
        ("so \\boxed{2}. Now", 1.0, 1.0),
        ("#### 2", -1.0, 1.0),
        ("so \\boxed{3}. Now", -1.0, -1.0),
    ],
)
def test_a_response_that_was_cut_off_must_mark_its_answer(data, response, marked, any_):
    prompt = Prompt(prompt_id="", messages=(), answer="2")
    for setting, reward in (("marked", marked), ("any", any_)):
        task = MathTask(replace(data, truncated_answer=setting))
        assert task.grade_truncated(prompt, [response]) == reward
        assert task.grade(prompt, [response]) == any_


@pytest.mark.parametrize("missing", ["nan", "NaN", "None", "null", "NULL", "<NA>"])
def test_a_missing_value_as_text_is_no_gold(data, missing):
    """Else a response that boxes 'nan' would be paid, and no other; or 'no solution' for None."""
    with open(data.path, "a") as file:
        file.write(json.dumps({"problem": "What is it?", "answer": missing}))
    with pytest.raises(ValueError, match="answer is what programs write for a missing value"):
        MathTask(data)


def test_one_problem_with_two_golds_is_a_bad_row_each_time(data):
    """One of them is wrong, and nobody knows which: the policy would be paid for both."""
    lines = [("What is 1?", "1"), ("What is  1?", "2"), ("Half?", "1/2"), ("Half?", "0.5")]
    with open(data.path, "a") as file:
        file.write("\n".join(json.dumps({"problem": p, "answer": a}) for p, a in lines))
    with pytest.raises(ValueError, match=r"2 bad row\(s\) in .*, 42 good") as error:
        MathTask(data)
    assert (
        ":41 and 1 more (42): problem is that of other rows, whose answer is another, such as '1'"
        in str(error.value)
    )
    task = MathTask(replace(data, on_bad_row="skip"))
    assert (task.num_skipped, task.size("train") + task.size("eval")) == (2, 42)


def test_copies_that_differ_in_blanks_and_capitals_are_not_parted(data):
    """And what is held out of data without such copies is what it was."""
    held_out = problems(MathTask(data), "eval")
    copies = [row | {"problem": row["problem"].upper().replace(" ", "\u00a0 ")} for row in ROWS]
    with open(data.path, "a") as file:
        file.write("\n".join(map(json.dumps, copies)))
    task = MathTask(data)
    plain = {
        split: {" ".join(text.lower().split()) for text in problems(task, split)}
        for split in ("train", "eval")
    }
    assert not plain["train"] & plain["eval"]
    assert problems(task, "eval")[: len(held_out)] == held_out


@pytest.mark.parametrize("gold", ["0,5", "-3,25", "1,234", "1.234,5", "12,5 %"])
def test_a_comma_in_a_table_of_semicolons_is_asked_about(data, tmp_path, gold):
    """Read as two answers it would refuse 0.5, and pay '5, 0'."""
    file = tmp_path / "of_a_spreadsheet.csv"
    file.write_text(f"problem;answer\nWhat is it?;{gold}\nAnd it?;7\nAnd then?;1, 2\n")
    with pytest.raises(
        ValueError, match=r"1 bad row(.|\n)*:2: answer has a comma, in a table whose"
    ):
        MathTask(replace(data, path=str(file)))
    file.write_text('problem,answer\nWhat is it?,"3,5"\nAnd it?,7\n')
    assert MathTask(replace(data, path=str(file), eval_share=0.5)).size("train") == 1


def test_one_column_for_both_is_refused():
    with pytest.raises(ValueError, match="both 'answer': the model would read the answer"):
        replace(CONFIG, problem_column="answer")
