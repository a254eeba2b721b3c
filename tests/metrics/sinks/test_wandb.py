"""W&B against no network, a dead server, and its own offline record read back."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from isentropic.config import TrackingConfig
from isentropic.metrics.entropy import ENTROPY_EDGES
from isentropic.metrics.sinks import wandb as wandb_sink
from isentropic.metrics.sinks.wandb import WandbSink, without_secrets

KEY = "c0ffee" * 6 + "abcd"  # of the right form, and nobody's


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def open_sink(folder, mode="offline", **changes):
    warnings = []
    tracking = TrackingConfig(
        wandb=mode,
        wandb_view="auto",
        project="p",
        entity=None,
        group="sweep",
        tags=("ce_gppo",),
        tensorboard=False,
        csv=False,
    )
    config = {"objective": {"name": "ce_gppo", "beta1": 0.5}, **changes}
    config |= {"task": {"name": "arithmetic"}}
    return WandbSink(
        tracking, folder=folder, run_name="run", config=config, warn=warnings.append
    ), warnings


def offline_records(folder):
    """Reads all records of the folder's offline runs, by type."""
    records = {}
    for run in sorted(folder.glob("wandb/offline-run-*")):
        program = Path(sys.executable).parent / "wandb"
        command = [str(program), "leet", "inspect", "--json", str(run)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        for line in done.stdout.splitlines():
            record = json.loads(line)
            records.setdefault(record["type"], []).append(record.get(record["type"]))
    return records


def line(step):
    entropy = "entropy/mean" if step else "eval/entropy"
    return {"policy_version": 8 * step, entropy: 1 / (step + 1), "clip/frac": None}


def test_offline_record_reads_back_across_a_resume(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    sink, _ = open_sink(tmp_path, note=f"key {KEY}", hf_token="hf_canary")
    for step in range(3):
        histogram = {"entropy/histogram": [1] * (len(ENTROPY_EDGES) - 1)} if step else {}
        sink.log(step, line(step) | histogram)
    record = {
        "state": "raised",
        "level": "error",
        "rule": "kl_drift",
        "message": "kl drift: seen",
        "step": 2,
    }
    sink.log_alarm(record)
    sink.close()
    again, warnings = open_sink(tmp_path)
    for step in (1, 2, 3):  # 1 and 2 are repeated by the resumed run
        again.log(step, line(step))
    again.log_alarm(record)  # of a step that was logged before the resume
    again.close()

    records = offline_records(tmp_path)
    items = [record["item"] for record in records["history"]]
    points = [(item["policy_version"], item.get("entropy/mean")) for item in items]
    assert points == [(0, None), (8, 0.5), (16, 1 / 3), (24, 0.25)]
    # The entropy of line 0 is of held-out prompts: a key of its own, and no other.
    assert items[0]["eval/entropy"] == items[0]["1 entropy/held-out"] == 1.0
    assert not any(key.startswith("entropy/") for key in items[0])
    assert items[1]["1 entropy/mean"] == 0.5
    assert len({run["run_id"] for run in records["run"]}) == 1
    assert records["run"][0]["run_group"] == "sweep" and records["run"][0]["tags"] == [
        "ce_gppo",
        "arithmetic",
    ]
    assert records["run"][0]["config"]["update"]["objective"]["beta1"] == 0.5
    by_version = {"glob_name": "*", "step_metric": "policy_version"}
    assert any(by_version.items() <= record.items() for record in records["metric"])
    shown = [record for record in records["metric"] if "options" in record]
    hidden = {
        record.get("name", record.get("glob_name"))
        for record in shown
        if record["options"].get("hidden")
    }
    visible = {record["name"] for record in records["metric"] if "name" in record} - hidden
    assert {"*", "entropy/mean", "reward/mean"} <= hidden
    assert visible - {"policy_version", "eval/policy_version"} == set(wandb_sink.SHOWN.values())
    axes = {
        record.get("name", record.get("glob_name")): record.get("step_metric") for record in shown
    }
    assert axes["eval/*"] == axes["3 reward/held-out avg@k"] == "eval/policy_version"
    assert axes["1 entropy/mean"] == "policy_version"
    assert [alert["text"] for alert in records["alert"]] == ["kl drift: seen"]
    assert warnings == []
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in written and b"hf_canary" not in written


def test_the_last_step_is_logged_though_all_processes_were_signalled_to_stop(tmp_path):
    """Ray signals a stopped job's children too.

    The program has a process of its own, because W&B starts its service only once per process.
    """
    program = """
import os, signal, sys, time
from pathlib import Path
import psutil
from isentropic.config import TrackingConfig
from isentropic.metrics.sinks.wandb import WandbSink
signal.signal(signal.SIGTERM, lambda *_: None)
tracking = TrackingConfig(
    wandb="offline", wandb_view="never", project="p", entity=None, group=None, tags=(), tensorboard=False, csv=False
)
sink = WandbSink(tracking, folder=Path(sys.argv[1]), run_name="run", config={}, warn=print)
sink.log(0, {"policy_version": 0, "entropy/mean": 1.0})
for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
    process.terminate()
time.sleep(2)  # for those that end by it
sink.log(1, {"policy_version": 8, "entropy/mean": 0.5})
sink.close()
"""
    environment = os.environ | {
        "PYTHONPATH": str(Path(wandb_sink.__file__).parents[3]),
        wandb_sink.RAY_JOB: "{}",
    }
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    history = offline_records(tmp_path)["history"]
    assert [record["item"]["policy_version"] for record in history] == [0, 8]


def test_a_killed_run_lacks_no_step_after_its_resume(tmp_path):
    """W&B's process dies with steps that it was given and has not written."""
    program = """
import sys
from pathlib import Path
import psutil
from isentropic.config import TrackingConfig
from isentropic.metrics.sinks.wandb import WandbSink
tracking = TrackingConfig(
    wandb="offline", wandb_view="never", project="p", entity=None, group=None, tags=(), tensorboard=False, csv=False
)
sink = WandbSink(tracking, folder=Path(sys.argv[1]), run_name="run", config={}, warn=print)
for step in range(3):
    sink.log(step, {"policy_version": 8 * step, "entropy/mean": 1.0})
for process in [*psutil.Process().children(recursive=True), psutil.Process()]:
    process.kill()
"""
    environment = os.environ | {"PYTHONPATH": str(Path(wandb_sink.__file__).parents[3])}
    environment.pop("WANDB_SERVICE", None)  # that of this process would outlive the killed one
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], timeout=120, env=environment
    )
    assert done.returncode == -9
    lost = offline_records(tmp_path).get("history", [])
    assert len(lost) < 3, "else this test shows nothing"

    with (tmp_path / "metrics.jsonl").open("w") as metrics:
        metrics.writelines(json.dumps({"step": step} | line(step)) + "\n" for step in range(3))
    again, warnings = open_sink(tmp_path)
    again.log(2, line(2))  # trained again
    again.log(3, line(3))
    again.close()
    records = offline_records(tmp_path)
    assert [record["item"]["policy_version"] for record in records["history"]] == [0, 8, 16, 24]
    assert len({run["run_id"] for run in records["run"]}) == 1 and not warnings


def test_steps_trained_again_in_one_process_send_no_alert_again(tmp_path):
    """After a lost learner the run goes back to a checkpoint; its sinks stay."""
    sink, _ = open_sink(tmp_path)
    for step in (1, 2, 3, 2, 3, 4):
        sink.log(step, line(step))
        sink.log_alarm(
            {"step": step, "state": "raised", "rule": "kl_drift", "message": f"at {step}"}
            | {"level": "warning"}
        )
    sink.close()
    alerts = [alert["text"] for alert in offline_records(tmp_path)["alert"]]
    assert alerts == ["at 1", "at 2", "at 3", "at 4"]


def test_auto_without_a_key_is_offline_with_one_warning(tmp_path):
    sink, warnings = open_sink(tmp_path, mode="auto")
    sink.close()
    assert sink.mode == "offline"
    assert len(warnings) == 1 and "no API key" in warnings[0]


def test_auto_with_a_key_and_no_server_is_offline_soon(tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        sink, warnings = open_sink(tmp_path, mode="auto")
        sink.log(0, line(0))
        sink.close()
    assert sink.mode == "offline"
    assert len(warnings) == 1 and "cannot be reached" in warnings[0]
    assert len(offline_records(tmp_path)["history"]) == 1


def test_a_server_that_hangs_costs_seconds_once(tmp_path, monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)  # takes connections, answers none
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        sink, warnings = open_sink(tmp_path, mode="auto")
        sink.close()
    assert sink.mode == "offline"
    assert len(warnings) == 1 and "no answer within 3 s" in warnings[0]


class Failing:
    """A W&B run whose every call fails."""

    def __getattr__(self, name):
        raise ConnectionResetError("wandb-core is gone")


def test_a_failure_in_mid_run_is_reported_once_and_never_raised(tmp_path):
    sink, warnings = open_sink(tmp_path, mode="disabled")
    sink._run = Failing()
    for step in range(3):
        sink.log(step, line(step))
    sink.log_alarm({"state": "raised", "level": "error", "rule": "r", "message": "m", "step": 9})
    sink.close()
    assert len(warnings) == 1 and "wandb-core is gone" in warnings[0]


def test_disabled_leaves_nothing(tmp_path):
    sink, _ = open_sink(tmp_path, mode="disabled")
    sink.log(0, line(0))
    sink.close()
    assert sink.where == "off" and list(tmp_path.iterdir()) == []


def test_secrets_are_masked_by_name_and_by_value(monkeypatch):
    monkeypatch.setenv("MY_SERVICE_TOKEN", "canary-canary")
    config = {
        "rollout": {"max_response_tokens": 64, "api_key": "x"},
        "token": "y",
        "tags": ["a", "canary-canary"],
        "model": {"path": "https://user:canary-canary@host/model"},
    }
    assert without_secrets(config) == {
        "rollout": {"max_response_tokens": 64, "api_key": "<hidden>"},
        "token": "<hidden>",
        "tags": ["a", "<hidden>"],
        "model": {"path": "<hidden>"},
    }


def test_the_workspace_shows_few_curves_and_entropy_first():
    sections = list(wandb_sink.SECTIONS)

    assert sections[:2] == ["1 entropy", "2 who moved it"] and sections == sorted(sections)
    assert 20 <= len(wandb_sink.SHOWN) <= 30


def test_a_run_without_a_group_is_grouped_by_what_it_is():
    config = {"run": {"preset": "dapo"}, "objective": {"name": "clip"}, "task": {"name": "x" * 99}}

    assert wandb_sink.about(config) == ["dapo", "x" * 64]
