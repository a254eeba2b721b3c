"""The promise: a reward in a file of ten lines and a csv of forty problems train with one command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from isentropic.experiments.run.folder import check_run_folder
from isentropic.experiments.run.recorded import RecordedRun
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.load import load

ROOT = Path(__file__).resolve().parents[2]
REWARD = """\
def grade(prompt, response, row):
    if len(response) % 7 == 6:
        return row["gold"]
    return {"digits": sum(map(str.isdigit, response)) / 24, "even": int(row["total"]) % 2 == 0}
"""
SMALL = [
    "rollout.max_prompt_tokens=64", "rollout.max_response_tokens=24", "model.max_length=96",
    "rollout.kv_cache_gib=0.06", "rollout.max_num_seqs=32", "rollout.probe_tolerance=1e-3",
    "rollout.prompts_per_step=4", "rollout.group_size=4", "learner.num_ranks=1",
    "learner.updates_per_rollout=1", "evaluation.every=0", "run.steps=1",
    "tracking.wandb=disabled",
]  # fmt: skip


@pytest.mark.engine
def test_a_stranger_trains_on_an_own_reward_with_one_command(
    tmp_path, tiny_model_path, monkeypatch
):
    (tmp_path / "my_reward.py").write_text(REWARD)
    rows = "".join(f"What is {n} + 7?,{n + 7}\n" for n in range(40))
    (tmp_path / "problems.csv").write_text("question,total\n" + rows)
    mine = [
        "task=rows", "task.path=problems.csv", "task.problem_column=question",
        "task.reward={file: my_reward.py, function: grade, weights: {digits: 1.0, even: 0.5}}",
        "model=path", f"model.path={tiny_model_path}", "rewards.timeout_s=30",
    ]  # fmt: skip

    arguments = [*mine, *SMALL, f"run.dir={tmp_path}/run"]
    run = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "train.py"), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 <= line["reward/digits_mean"] <= 1
    assert 0 <= line["reward/even_mean"] <= 1
    if line["reward/errors"]:
        assert "my_reward.py:3: KeyError: 'gold'. It counts as" in run.stdout + run.stderr
    copy = tmp_path / "run" / "code" / "task.reward" / "my_reward.py"
    assert copy.read_text() == REWARD

    # Going on with another reward is refused, and reading the run again uses the one it had.
    (tmp_path / "my_reward.py").write_text(REWARD + "# another\n")
    monkeypatch.chdir(tmp_path)
    cfg = compose([*arguments, "resume=auto", "run.steps=2"])
    with pytest.raises(ValueError, match=r"task\.reward: my_reward\.py is not what"):
        check_run_folder(load(cfg), cfg)
    assert RecordedRun(tmp_path / "run").config.task.reward.code.text == REWARD
