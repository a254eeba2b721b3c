"""Jobs on a real `ray start --head` that wants a token: sent, followed, listed, stopped, and a run to its end."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from isentropic.experiments.commands import submit

TOKEN = "a-token-of-this-test-" + "x" * 16
SCRIPT = """
import os, sys, time
print("code in", os.path.relpath(os.environ["PYTHONPATH"].split(":")[-1]), "arguments", sys.argv[1:], flush=True)
print("secret", os.environ.get("WANDB_API_KEY"), flush=True)
time.sleep(600 if "seed=1" in sys.argv else 0)
sys.exit(3)
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """The dashboard's address. Ended by its own process ids: `ray stop` would end every Ray of the machine."""
    folder = tmp_path_factory.mktemp("ray")
    gcs, dashboard, agent, client = free_ports(4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment.pop("PYTHONPATH", None)
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0", f"--port={gcs}"]
    command += [
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}",
    ]
    command += [
        f"--ray-client-server-port={client}",
        "--object-store-memory=150000000",
        f"--temp-dir={folder}",
    ]
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(1500):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", dashboard)) == 0:
                    break
            assert process.poll() is None, (folder / "head.log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        started = [process, *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        _, alive = psutil.wait_procs(
            [psutil.Process(each.pid) for each in started if psutil.pid_exists(each.pid)], 15
        )
        for each in alive:
            each.kill()
        process.wait(60)


@pytest.fixture
def cluster(head, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    return head


@pytest.fixture
def tree(tmp_path, monkeypatch):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "platform").mkdir()
    (tmp_path / "jobs" / "train.py").write_text(SCRIPT)
    monkeypatch.setattr(submit, "ROOT", tmp_path)


@pytest.mark.engine
def test_submit_follow_list_stop(cluster, tree, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "canary-canary")
    address = [f"address={cluster}"]
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong-" * 6)
    assert submit.main(["list", *address]) == 2
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", os.devnull)
    assert submit.main(["list", *address]) == 2
    refused = capsys.readouterr().err
    assert "(403)" in refused and "(401)" in refused
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)

    assert submit.main(["train", "seed=2", "job=first", *address]) == 3  # the job's own code
    log = capsys.readouterr().out
    assert "arguments ['seed=2']" in log and "secret None" in log
    assert submit.main(["train", "job=first", *address]) == 2
    assert submit.main(["status", "nobody", *address]) == 2
    assert submit.main(["train", "seed=1", "job=second", "follow=false", *address]) == 0
    assert submit.main(["stop", "second", *address]) == 0
    capsys.readouterr()
    assert submit.main(["list", *address]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["first", "FAILED"], ["second", "STOPPED"]]
    assert submit.main(["status", "first", *address]) == 0
    assert "exit code 3" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_on_the_cluster(cluster, tmp_path, capsys):
    overrides = [
        "experiment=ce_gppo_tiny",
        "run.name=job",
        "run.steps=2",
        "rollout.prompts_per_step=4",
    ]
    overrides += ["rollout.group_size=2", "learner.updates_per_rollout=1", "evaluation.every=0"]
    command = [
        "train",
        *overrides,
        "tracking.wandb=disabled",
        f"runs={tmp_path}",
        f"address={cluster}",
    ]

    code = submit.main(command)

    assert code == 0, capsys.readouterr().out
    lines = (tmp_path / "job" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]
    environment = json.loads((tmp_path / "job" / "environment.json").read_text())
    assert (
        "working_dir_files" in environment["isentropic"]
    )  # the code that ran is the code that was sent
