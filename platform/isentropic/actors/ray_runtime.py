"""Starts a Ray of our own or connects to one, and ends it; sets its workers' environment."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import ray
from ray._private import services
from ray._private.authentication import authentication_token_setup as token_setup
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

import isentropic
from isentropic.checks import is_issued, is_secret_name
from isentropic.config import ClusterConfig
from isentropic.controller.protocols import NotStarted
from isentropic.durable import NO_ROOM

CONNECT_S = 5.0
REASON = 300  # characters of an error of Ray that ours repeats
GONE_S = 15.0  # a head that is silent for so long is gone; one under load is not
SOURCE_ROOT = str(Path(isentropic.__file__).resolve().parents[1])
# Ray needs its own token; engines and ranks load gated models with the Hub's.
NEEDED_SECRETS = ("RAY_AUTH_TOKEN", "HF_TOKEN")
# Variables, and beginnings of their names, that actors get from the driver wherever they run: on a
# cluster they would otherwise have those of `ray start` only. Never a secret.
PASSED_ON = ("HF_", "TRANSFORMERS_OFFLINE", "CUDA_DEVICE_ORDER")
PASSED_ON += ("NCCL_", "TORCH_NCCL_", "GLOO_", "PYTORCH_CUDA_ALLOC_CONF", "VLLM_", "TRITON_")


def start_ray(cluster: ClusterConfig, *, num_cpus: float) -> bool:
    """Connects to `cluster.address` or RAY_ADDRESS; if neither is set, starts a Ray here.

    Ray listens on all interfaces and lets in who has its token (it switches token authentication on
    by itself).

    A Ray of our own declares `num_cpus` logical CPUs if the machine has fewer: on a small one
    processes share cores. Returns True if the Ray is ours.

    Raises:
        ValueError: within seconds, if the address does not answer, or if Ray cannot write to one of
            its folders.
        NotStarted: a Ray of our own did not come up before Ray's own deadlines.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = check_address(cluster)
    if address == "local":
        with (
            _sigterm_kept(),
            _processes_apart(),
            _token_closed(),
            _delay_explained(),
            _folders_explained(),
        ):
            ray.init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, int(num_cpus + 0.999)),
                include_dashboard=False,
                object_store_memory=int(cluster.object_store_gib * 2**30)
                if cluster.object_store_gib
                else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        _close_token_file()
        return True
    try:
        with _sigterm_kept():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise ValueError(_unreachable(address, str(error).strip().splitlines()[0])) from error
    return False


def stop_ray() -> None:
    """Ends a Ray of our own, or the connection to another one."""
    # Without its head, Ray would wait for half a minute here; it ends with this process.
    if head_answers():
        with _sigterm_kept():
            ray.shutdown()


def leave_lost_ray(code: int) -> None:
    """Ends this process with `code` if the head of its Ray is gone: the usual exit would hang."""
    if not head_answers():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def head_answers() -> bool:
    """Returns False if this process uses a Ray whose head is gone.

    Further calls on it would hang, until Ray ends the process with code 1.
    """
    if not ray.is_initialized():
        return True
    try:
        _ask(ray.get_runtime_context().gcs_address, GONE_S)
    except grpc.RpcError as error:
        gone = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        return error.code() not in gone
    return True


@contextmanager
def _folders_explained() -> Iterator[None]:
    """Turns Ray's error about a folder that it cannot use into one that names the way out.

    A full disk, a lost connection and a deadline keep their own errors.
    """
    try:
        yield
    except OSError as error:
        too_long = "AF_UNIX" in str(error)
        if error.errno in NO_ROOM or not (too_long or error.filename):
            raise
        remedy = (
            "Set TMPDIR (or RAY_TMPDIR) to a shorter path, such as /tmp."
            if too_long
            else "Ray writes its token to .ray in HOME and its session to TMPDIR: set both to "
            "folders that you can write, or RAY_AUTH_TOKEN_PATH to the file of a token."
        )
        reason = str(error).removeprefix("validate_socket_filename failed: ")
        raise ValueError(f"Ray cannot start on this machine: {reason}. {remedy}") from error


@contextmanager
def _delay_explained() -> Iterator[None]:
    """Turns what `ray.init` raises when a part of Ray is late or dies into NotStarted.

    Ray has no class of its own for it: a bare Exception, RuntimeError, TimeoutError, RpcError. What
    it refuses is a ValueError or a TypeError, which keep their own way.
    """
    late = (RuntimeError, TimeoutError, ConnectionError, ray.exceptions.RayError)
    try:
        yield
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, late):
            raise
        reason = " ".join(str(error).split())[:REASON]
        load = os.getloadavg()[0]
        raise NotStarted(
            f"Ray did not come up on this machine ({reason}). {load:.0f} processes want its "
            f"{os.cpu_count()} CPUs; a busy machine, or one short of memory, is the usual cause. "
            "Nothing was started: give the same command again later. `python jobs/doctor.py` says "
            "what is short."
        ) from error


@contextmanager
def _processes_apart() -> Iterator[None]:
    """Starts Ray's processes outside the driver's process group, and without its secrets.

    A SIGTERM to the whole group (`timeout`, many batch systems) would end Ray while the driver
    saves its last step. Ray's processes still die with the driver: the kernel kills them when their
    parent is gone, in any session.

    Every worker inherits the environment of these processes. W&B logs from the driver, so its key
    is needed nowhere else.
    """
    popen = services.ConsolePopen

    def popen_apart(command: list[str], *, env: Mapping[str, str], **options: Any) -> Any:
        return popen(command, env=without_secrets(env), start_new_session=True, **options)

    services.ConsolePopen = popen_apart
    try:
        yield
    finally:
        services.ConsolePopen = popen


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that Ray's processes may have: no secret but those they need."""
    return {
        name: value
        for name, value in environ.items()
        if name in NEEDED_SECRETS or not (is_secret_name(name) or is_issued(value))
    }


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keeps the SIGTERM handler, which `ray.init` and `ray.shutdown` replace.

    Those of `ray.init` print a stack and abort, or exit with 15; `ray.shutdown` leaves the default,
    with which a late SIGTERM ends the run without a report.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _token_closed() -> Iterator[None]:
    """Has Ray write a new token for this user alone; by itself it lets every user read it.

    The mask holds for that file only: with it for all of `ray.init`, Ray's workers would inherit it,
    and nobody else could read the run folder.
    """
    write = token_setup.generate_and_save_token

    def write_closed() -> None:
        before = os.umask(0o077)
        try:
            write()
        finally:
            os.umask(before)

    token_setup.generate_and_save_token = write_closed
    try:
        yield
    finally:
        token_setup.generate_and_save_token = write


def _close_token_file() -> None:
    """Closes a token of an earlier Ray, which every user of the machine may read."""
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file():
        token.chmod(0o600)


def worker_env(cpus: float, **more: str) -> dict[str, str]:
    """Returns what an actor's environment has beyond that of the Ray it runs on; no secret.

    Ray writes these values to a log that every user of the machine may read, and to the command
    line of a process. So HF_TOKEN is not among them: workers of a Ray of our own inherit it, and
    those of a cluster have the one that its nodes were started with, or none.
    """
    paths = [_source_root(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "OMP_NUM_THREADS": str(max(1, int(cpus))),
        "TOKENIZERS_PARALLELISM": "false",
        **{
            name: value
            for name, value in os.environ.items()
            if name.startswith(PASSED_ON) and not (is_secret_name(name) or is_issued(value))
        },
        **more,
    }


def _source_root() -> str:
    """Returns where an actor finds this code.

    In a job, every node unpacks the uploaded tree into a folder of its own and starts its workers
    there: the path is relative to that folder.
    """
    working_dir = (
        ray.get_runtime_context().runtime_env.get("working_dir") if ray.is_initialized() else None
    )
    source = Path(SOURCE_ROOT)
    return (
        str(source.relative_to(Path.cwd()))
        if working_dir and source.is_relative_to(Path.cwd())
        else SOURCE_ROOT
    )


def check_address(cluster: ClusterConfig) -> str:
    """Returns the address to use, or "local". Raises ValueError within seconds if it is silent."""
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    if address != "local":
        _check_reachable(address)
    return address


def _check_reachable(address: str) -> None:
    """Refuses a silent address: Ray would wait half a minute, and not say if it wants a token."""
    if address == "auto":
        try:
            address = services.canonicalize_bootstrap_address("auto")
        except ConnectionError as error:
            raise ValueError(_unreachable("auto", "none is running on this machine")) from error
    if address.startswith("ray://"):
        raise ValueError(
            f"cluster.address={address}: Ray's remote client is not supported, weights would pass "
            "through it. Send the run to the cluster as a job (jobs/submit.py), or give the "
            "address of its head as host:6379."
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"cluster.address must be host:port, auto, or null; got {address!r}.")
    try:
        _ask(address, CONNECT_S)
    except grpc.RpcError as error:
        raise ValueError(_refused(address, error)) from error


def _ask(address: str, timeout_s: float) -> None:
    """Asks the head for the smallest thing that it answers."""
    with init_grpc_channel(address) as channel:
        NodeInfoGcsServiceStub(channel).GetClusterId(GetClusterIdRequest(), timeout=timeout_s)


def _refused(address: str, error: grpc.RpcError) -> str:
    if error.code() == grpc.StatusCode.UNAUTHENTICATED:
        return (
            f"the Ray cluster at {address} wants its token, got none or another one. Set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN=<token> or RAY_AUTH_TOKEN_PATH=<file>, or "
            "correct cluster.address or RAY_ADDRESS."
        )
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return _unreachable(address, f"no answer in {CONNECT_S:g} s")
    details = error.details().lower()
    reasons = (
        sign
        for sign in ("connection refused", "domain name not found", "unreachable")
        if sign in details
    )
    return _unreachable(address, next(reasons, "what listens there is no Ray"))


def _unreachable(address: str, reason: str) -> str:
    return (
        f"no Ray cluster answers at {address} ({reason}). Start one there (ray start --head), "
        "correct cluster.address or RAY_ADDRESS, or unset both to run on a Ray of this machine."
    )
