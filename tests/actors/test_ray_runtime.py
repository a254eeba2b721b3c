"""An address that is no Ray is told within seconds; workers get no secret."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import grpc
import psutil
import pytest
from ray.exceptions import RpcError

from isentropic.actors import ray_runtime
from isentropic.actors.ray_runtime import start_ray, worker_env
from isentropic.controller.protocols import NotStarted


def start(address):
    return start_ray(SimpleNamespace(address=address, object_store_gib=None), num_cpus=1)


@pytest.fixture
def deaf():
    """Listens, and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_new_token_is_never_readable_by_others(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    setup = ray_runtime.token_setup
    before, mask = setup.generate_and_save_token, os.umask(0o022)
    try:
        with ray_runtime._token_closed():
            setup.generate_and_save_token()
        (tmp_path / "other").touch()
    finally:
        os.umask(mask)
    token = tmp_path / ".ray" / "auth_token"
    assert token.read_text() and token.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o644, "of the token alone"
    assert setup.generate_and_save_token is before


def test_nobody_listens(deaf):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"no Ray cluster answers at {address} .*refused"):
            start(address)


def test_something_else_listens(deaf, monkeypatch):
    monkeypatch.setattr(ray_runtime, "CONNECT_S", 0.5)
    with pytest.raises(ValueError, match=r"no answer in 0\.5 s"):
        start(deaf)


class Refusing(grpc.GenericRpcHandler):
    """A head that wants a token; with `code`, any other gRPC server."""

    def __init__(self, code):
        self._code = code

    def service(self, call):
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: context.abort(self._code, "no")
        )


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "wants its token, got none or another one"),
        (grpc.StatusCode.UNIMPLEMENTED, "what listens there is no Ray"),
    ],
)
def test_what_a_server_refuses(code, message):
    server = grpc.server(ThreadPoolExecutor(1), handlers=[Refusing(code)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(ValueError, match=message):
            start(f"127.0.0.1:{port}")
    finally:
        server.stop(None)


def test_the_environments_address_counts(deaf, monkeypatch):
    monkeypatch.setattr(ray_runtime, "CONNECT_S", 0.5)
    monkeypatch.setenv("RAY_ADDRESS", deaf)
    with pytest.raises(ValueError, match=deaf):
        start(None)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        pytest.param("ray://head:10001", r"as a job \(jobs/submit.py\)", id="remote client"),
        pytest.param("head", "must be host:port, auto, or null; got 'head'", id="no port"),
    ],
)
def test_malformed(address, message):
    with pytest.raises(ValueError, match=message):
        start(address)


def test_workers_get_the_code_and_no_secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hidden")
    monkeypatch.setenv("WANDB_API_KEY", "hidden")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    env = worker_env(2.5, VLLM_LOGGING_LEVEL="ERROR")
    assert "hidden" not in env.values()
    assert env["PYTHONPATH"].split(":")[0] == ray_runtime.SOURCE_ROOT
    assert (env["OMP_NUM_THREADS"], env["HF_HUB_OFFLINE"], env["VLLM_LOGGING_LEVEL"]) == (
        "2",
        "1",
        "ERROR",
    )


def test_what_steers_the_libraries_reaches_the_workers(monkeypatch):
    """On a cluster the driver's exports would do nothing, silently."""
    chosen = {
        "NCCL_IB_HCA": "mlx5", "GLOO_SOCKET_IFNAME": "eth0", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "VLLM_BATCH_INVARIANT": "1",
        "TRITON_CACHE_DIR": "/cache", "HF_ENDPOINT": "https://mirror",
    }  # fmt: skip
    secret = {"VLLM_API_KEY": "hidden", "HF_TOKEN": "hidden", "HF_LAB": "hf_" + "a1B2" * 8}
    for name, value in {**chosen, **secret, "LD_PRELOAD": "no"}.items():
        monkeypatch.setenv(name, value)
    env = worker_env(1)
    assert chosen.items() <= env.items()
    assert not env.keys() & (secret.keys() | {"LD_PRELOAD"})
    assert worker_env(1, GLOO_SOCKET_IFNAME="lo")["GLOO_SOCKET_IFNAME"] == "lo"


def test_ray_starts_without_the_drivers_secrets(monkeypatch):
    started = []
    monkeypatch.setattr(
        ray_runtime.services,
        "ConsolePopen",
        lambda command, **options: started.append((command, options)),
    )
    environ = {
        "WANDB_API_KEY": "hidden",
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "PGPASSWORD": "hidden",
        "LAB": "ghp_hiddenhidden",
        "PATH": "/bin",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "Ray needs it",
        "RAY_AUTH_TOKEN_PATH": "/token",
        "HF_TOKEN": "for gated models",
        "HF_HOME": "/models",
    }
    with ray_runtime._processes_apart():
        ray_runtime.services.ConsolePopen(["raylet"], env=environ, cwd="/")
    needed = {name: value for name, value in environ.items() if "hidden" not in value}
    assert started == [(["raylet"], {"env": needed, "start_new_session": True, "cwd": "/"})]
    assert len(needed) == 6


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        pytest.param(PermissionError(13, "denied", "/srv/.ray"), ValueError, id="a folder"),
        pytest.param(OSError("AF_UNIX path length"), ValueError, id="a socket"),
        pytest.param(OSError(28, "no space", "/tmp/ray"), OSError, id="a full disk"),
        pytest.param(ConnectionError("the head is silent"), ConnectionError, id="a fault"),
    ],
)
def test_only_errors_about_folders_are_the_users(error, raised):
    with pytest.raises(raised) as caught, ray_runtime._folders_explained():
        raise error
    assert type(caught.value) is raised


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        pytest.param(
            Exception("The current node timed out during startup."), NotStarted, id="late"
        ),
        pytest.param(RuntimeError("Failed to start GCS."), NotStarted, id="no head"),
        pytest.param(TimeoutError("Timed out after 30 seconds"), NotStarted, id="no node"),
        pytest.param(ConnectionError("the head is silent"), NotStarted, id="silent"),
        pytest.param(RpcError("deadline"), NotStarted, id="rpc"),
        pytest.param(ValueError("num_cpus"), ValueError, id="refused"),
        pytest.param(OSError(28, "no space", "/tmp/ray"), OSError, id="a full disk"),
        pytest.param(KeyError("a fault of Ray"), KeyError, id="a fault"),
    ],
)
def test_a_ray_that_does_not_come_up_may_be_tried_again(error, raised):
    with pytest.raises(raised) as caught, ray_runtime._delay_explained():
        raise error
    assert type(caught.value) is raised
    assert raised is not NotStarted or f"({error})" in str(caught.value)


def test_a_late_part_of_our_own_ray_is_not_started(monkeypatch):
    def late(**options):
        raise Exception("The current node timed out during startup.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_runtime.ray, "init", late)
    with pytest.raises(NotStarted, match=r"timed out during startup.*same command again later"):
        start(None)


def test_a_long_folder_for_sockets_is_refused():
    """In a process of its own: Ray reads TMPDIR once."""
    code = (
        "from types import SimpleNamespace\n"
        "from isentropic.actors.ray_runtime import start_ray\n"
        "start_ray(SimpleNamespace(address=None, object_store_gib=0.1), num_cpus=1)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        long = Path(folder, "x" * 60)
        long.mkdir()
        environ = os.environ | {"TMPDIR": str(long), "PYTHONPATH": ray_runtime.SOURCE_ROOT}
        environ.pop("RAY_TMPDIR", None)
        environ.pop("RAY_ADDRESS", None)
        ended = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=300
        )
    assert "ValueError: Ray cannot start on this machine: AF_UNIX path length" in ended.stderr
    assert "Set TMPDIR" in ended.stderr


@pytest.mark.engine
def test_a_worker_inherits_no_secret(ray_session):
    import ray

    @ray.remote
    def names() -> set[str]:
        return set(os.environ)

    inherited = ray.get(names.remote(), timeout=300)
    assert "PATH" in inherited and "CANARY_API_KEY" not in inherited


@pytest.mark.engine
def test_our_ray_is_outside_the_drivers_process_group(ray_session):
    """Or a SIGTERM to the group would end it while the driver saves its last step; it still dies with the driver."""
    rays = [each for each in psutil.Process().children() if "gcs_server" in each.name()]
    rays += [each for each in psutil.Process().children() if "raylet" in each.name()]
    assert len(rays) == 2
    assert os.getpgrp() not in {os.getpgid(each.pid) for each in rays}
    assert ray_runtime.head_answers()


def test_what_ray_does_with_sigterm_does_not_stay():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ray_runtime._sigterm_kept():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
