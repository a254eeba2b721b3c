"""Rollouts as text: what is known of each, what became of it, and nothing that moves the cursor."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isentropic.experiments.commands import show

ROOT = Path(__file__).resolve().parents[3]
PROMPT = json.dumps({"messages": [{"role": "user", "content": "1+1="}], "answer": "2"})


def rollout(draw, sample, text, reward):
    return {
        "step": 3, "split": "train", "draw": draw, "wave": 0, "sample": sample, "prompt": PROMPT,
        "response": [text], "reward": reward, "finish_reason": "stop", "temperature": 1.0,
        "origin": "policy", "turns": [[2, 4]], "token_ids": [7, 8, 9, 1],
        "rollout_logprob": [-0.25, -1.5],
    }  # fmt: skip


def fate(draw, sample, name, advantage):
    key = {"split": "train", "draw": draw, "wave": 0, "sample": sample}
    return {**key, "fate": name, "advantage": advantage}


@pytest.fixture
def run(tmp_path):
    rows = [rollout(5, 0, "2", 1.0), rollout(5, 1, "3\x1b[2J", 0.0), rollout(6, 0, "2", 1.0)]
    fates = [fate(5, 0, "trained", 1.0), fate(5, 1, "trained", -1.0), fate(6, 0, "flat", None)]
    for folder, table in (("rollouts", rows), ("trained", fates)):
        (tmp_path / folder).mkdir()
        pq.write_table(pa.Table.from_pylist(table), tmp_path / folder / "step_000003.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:1]), tmp_path / "rollouts" / "step_000004.parquet")
    return tmp_path


def shown(capsys, *arguments):
    code = show.main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def test_a_step_is_a_list_of_its_draws(run, capsys):
    code, lines, _ = shown(capsys, run, "step=3")
    assert code == 0
    assert lines[0].endswith("step_000003.parquet: 3 rollouts, reward 0.667, 2 trained, 1 flat")
    assert lines[1:] == [
        "draw 5        2 samples, reward 0.500, 2 trained  1+1=",
        "draw 6        1 samples, reward 1.000, 1 flat  1+1=",
        "the samples of one draw: draw=5; token by token: draw=5 tokens=true",
    ]


def test_a_draw_is_its_prompt_and_every_sample(run, capsys):
    _, lines, _ = shown(capsys, run, "step=3", "draw=5")
    assert lines[1:] == [
        "user: 1+1=",
        "answer: 2",
        "",
        "sample 0  reward 1  trained  advantage +1.000  2 tokens  stop  temperature 1",
        "2",
        "",
        "sample 1  reward 0  trained  advantage -1.000  2 tokens  stop  temperature 1",
        "3\\x1b[2J",
    ]


def test_the_last_step_has_no_fates_yet_and_tokens_need_no_tokenizer(run, capsys):
    _, lines, _ = shown(capsys, run, "draw=5", "tokens=true")
    assert lines[-3:] == [
        "sample 0  reward 1  2 tokens  stop  temperature 1",
        "   0.2500  '9'",
        "   1.5000  '1'",
    ]


@pytest.mark.parametrize(
    ("split", "folder"), [("eval", "evaluations"), ("start", "evaluations/start")]
)
def test_answers_to_held_out_prompts(run, capsys, split, folder):
    (run / folder).mkdir(parents=True)
    rows = [{**rollout(5, 0, "2", 1.0), "split": split}]
    pq.write_table(pa.Table.from_pylist(rows), run / folder / "step_000003.parquet")
    code, lines, _ = shown(capsys, run, f"split={split}")
    assert code == 0, "the training's own step 3 says nothing of them"
    assert lines[1:] == [
        "draw 5        1 samples, reward 1.000  1+1=",
        "the samples of one draw: draw=5; token by token: draw=5 tokens=true",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["step=9"], "has no step 9. It has 3, 4."),
        (["draw=7"], "the step has no draw 7; it has 5 to 5"),
        (["draw=5", "sample=1"], "draw 5 has no sample 1; it has 0 to 0"),
        (["sample=1"], "sample= is of one draw: name it with draw=."),
        (["tokens=true"], "tokens= is of one draw"),
        (["split=eval"], "evaluations holds no step"),
        (["stepp=3"], "Did you mean 'step'"),
    ],
)
def test_what_is_not_there(run, capsys, arguments, message):
    code, _, err = shown(capsys, run, *arguments)
    assert code == 2 and message in err


def test_a_file_that_is_no_ledger(run, capsys):
    pq.write_table(pa.table({"a": [1]}), run / "rollouts" / "step_000004.parquet")
    code, _, err = shown(capsys, run)
    assert code == 2 and "step_000004.parquet cannot be read as a ledger file" in err


def test_a_reader_that_has_seen_enough_is_no_error(run):
    command = f"{sys.executable} jobs/show.py {run} step=3 | true"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""


def test_no_field_of_a_strangers_ledger_moves_the_cursor(tmp_path, capsys):
    code = "\x1b]0;title\x07\x1b[2J"
    prompt = {"messages": [{"role": f"user{code}", "content": code}], "answer": code}
    row = rollout(5, 0, code, 1.0) | {
        "prompt": json.dumps(prompt), "finish_reason": f"stop{code}", "origin": f"policy{code}",
    }  # fmt: skip
    for folder, table in (("rollouts", row), ("trained", fate(5, 0, f"trained{code}", 1.0))):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "step_000003.parquet"
        pq.write_table(pa.Table.from_pylist([table]), path)
    for arguments in ([], ["draw=5"], ["draw=5", "tokens=true"]):
        status, lines, _ = shown(capsys, tmp_path, *arguments)
        assert status == 0 and lines
        assert not any("\x1b" in line or "\x07" in line for line in lines)
