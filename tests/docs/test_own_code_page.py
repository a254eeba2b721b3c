"""The user's own files of docs/extend.md do what the page says, behind the wall that a run has."""

import asyncio
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.load import load
from isentropic.tasks import TASKS
from isentropic.tasks.grading.outcome import parts_of
from isentropic.tasks.grading.rewards import RewardWorkers

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "extend.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (my_\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
ROWS = "question,total\n" + "".join(f"What is {n} + 7?,{n + 7}\n" for n in range(40))
OF_ROWS = ["task=rows", "task.path=problems.csv", "task.problem_column=question"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A stranger's folder: the files of the page, and forty problems."""
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # a cluster: cores are not counted here
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "problems.csv").write_text(ROWS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(*overrides):
    return load(compose(["model=smollm2-135m", "rewards.timeout_s=60", *overrides]))


def paid(config, *responses):
    task = TASKS[config.task.name].make(config.task)
    prompt = task.prompt("train", 0)
    workers = RewardWorkers(task, None, config.rewards)
    right = str(json.loads(prompt.metadata)["total"]) if prompt.metadata else prompt.answer
    try:
        texts = [response.replace("RIGHT", right) for response in responses]
        return asyncio.run(workers.check([(prompt, (text,)) for text in texts]))
    finally:
        workers.close()


def test_the_reward_of_the_page():
    own = "task.reward={file: my_reward.py, function: grade, weights: {right: 1.0, short: 0.1}}"
    long, right, wrong = paid(loaded(*OF_ROWS, own), f"{'so ' * 40} RIGHT", "RIGHT", "none")
    assert (long, right, wrong) == (1.0, 1.1, 0.1)
    assert parts_of(long) == {"right": 1.0, "short": 0.0}


def test_the_reward_in_trl_s_form():
    own = "task.reward={file: my_trl_reward.py, function: grade}"
    assert paid(loaded(*OF_ROWS, own), "it is RIGHT", "none") == [1.0, 0.0]


class Judge(BaseHTTPRequestHandler):
    """Scores an answer by its length, over 100."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"score": len(asked["answer"]) / 100}).encode()
        self.send_response(500 if asked["answer"] == "broken" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_): ...


@pytest.fixture
def judge(folder):
    server = HTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    text = FILES["my_judge.py"]
    assert ":9000/" in text
    (folder / "my_judge.py").write_text(text.replace(":9000/", f":{server.server_port}/"))
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("network", ["true", "false"])
def test_the_judge_is_reached_only_if_the_network_is_opened(judge, network):
    own = "task.reward={file: my_judge.py, function: grade}"
    config = loaded(*OF_ROWS, own, f"rewards.network={network}")
    outcomes = paid(config, "12345", "broken", "1234567890")
    if network == "true":
        assert outcomes == [0.05, "raised", 0.1]
        assert "my_judge.py:12: ClientResponseError: 500" in outcomes[1].reason
    else:
        assert outcomes == ["raised"] * 3


def test_the_task_of_the_page():
    config = loaded("task={file: my_task.py, class: Parity, numbers: 500}")
    task = TASKS["own"].make(config.task)
    assert (task.size("train"), task.prompt("eval", 1).answer) == (500, "no")
    assert paid(config, "Yes ", "maybe") == [1.0, 0.0]


def test_the_objective_of_the_page():
    """d loss / d log_ratio = -A r**power: -3 * 4**0.5."""
    given = "objective={file: my_objective.py, name: tempered_ratio, power: 0.5}"
    objective = loaded(given).objective
    log_ratio = torch.tensor([4.0], dtype=torch.float64).log().requires_grad_()
    loss, _ = objective.function(log_ratio, torch.tensor([3.0]), **objective.at(1))
    loss.sum().backward()
    torch.testing.assert_close(log_ratio.grad, torch.tensor([-6.0], dtype=torch.float64))
