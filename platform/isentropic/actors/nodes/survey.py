"""Asks every node of a Ray what a run would find there."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from isentropic.actors.placement import Node, alive_nodes
from isentropic.actors.ray_runtime import SOURCE_ROOT

ANSWER_S = 60.0  # until a process on each node has started and looked
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class NodeView:
    """What one node has; what follows `answered` was seen by a process there."""

    name: str
    gpus: int  # that Ray was told of
    host_gib: float  # that Ray may use, its object store in it
    object_store_gib: float
    answered: bool
    gpu_devices: int = 0  # of the machine
    gpu_name: str = ""  # of the first; "" without nvidia-smi
    gpu_gib: float = 0.0
    versions: dict[str, str | None] | None = None  # of Python and packages; None: not installed
    code: str | None = None  # digest of this code, at the path that it has here; None: not there
    sees_runs: bool = False
    shm_gib: float = 0.0  # free in /dev/shm
    interfaces: tuple[str, ...] = ()
    interface: str = ""  # from which it reaches the head; "" if not known
    variables: dict[str, str] | None = None  # those asked for that are set


def survey(
    marker: Path | None = None, packages: Sequence[str] = (), variables: Sequence[str] = ()
) -> list[NodeView]:
    """Looks at every node, in a process there; the Ray must have been joined.

    What looks is sent as it stands and needs nothing of this project: a node that lacks it says so.

    Args:
        marker: a file of this machine that is looked for there.
        packages, variables: whose versions and values are wanted.
    """
    head = ray.get_runtime_context().gcs_address
    arguments = (
        marker and str(marker.absolute()),
        SOURCE_ROOT,
        head,
        list(packages),
        list(variables),
    )
    look = ray.remote(_looker())
    nodes = alive_nodes()
    answers = {
        look.options(
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(*arguments): node
        for node in nodes
    }
    ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_S)
    names = _names(nodes)
    return [_view(node, names[node["NodeID"]], answer) for answer, node in answers.items()]


@contextmanager
def marker_in(folder: Path) -> Iterator[Path]:
    """Yields a new file in the folder, which is made; takes the file away again."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / f".seen-by-all-{uuid4().hex}"
    marker.touch()
    try:
        yield marker
    finally:
        marker.unlink()


def _names(nodes: Sequence[Node]) -> dict[str, str]:
    """Returns a name per node id: the host's, with a number if several nodes have one host."""
    hosts = [node["NodeManagerHostname"] for node in nodes]
    return {
        node["NodeID"]: host if hosts.count(host) == 1 else f"{host}#{number}"
        for number, (node, host) in enumerate(zip(nodes, hosts, strict=True))
    }


def _view(node: Node, name: str, answer: Any) -> NodeView:
    resources = node["Resources"]
    known = {
        "name": name,
        "gpus": int(resources.get("GPU", 0)),
        "host_gib": (resources.get("memory", 0) + resources.get("object_store_memory", 0)) / GIB,
        "object_store_gib": resources.get("object_store_memory", 0) / GIB,
    }
    try:
        return NodeView(answered=True, **known, **ray.get(answer, timeout=0))
    except ray.exceptions.RayError:
        return NodeView(answered=False, **known)


def _looker() -> Callable[..., dict[str, Any]]:
    """Returns the function that looks. A local one: Ray sends it whole, and not its module's name."""

    def look(
        marker: str | None, root: str, head: str, packages: list[str], variables: list[str]
    ) -> dict[str, Any]:
        import hashlib
        import os
        import platform
        import re
        import shutil
        import socket
        import subprocess
        import time
        from importlib.metadata import PackageNotFoundError, version
        from pathlib import Path

        def installed(name: str) -> str | None:
            try:
                return version(name)
            except PackageNotFoundError:
                return None

        def digest(folder: Path) -> str | None:
            files = sorted(folder.rglob("*.py"))
            texts = [str(file.relative_to(folder)).encode() + file.read_bytes() for file in files]
            return hashlib.sha256(b"\0".join(texts)).hexdigest() if texts else None

        def own_address() -> str:
            host, _, port = head.rpartition(":")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
                route.connect((host, int(port)))  # sends nothing
                return route.getsockname()[0]

        def interface() -> str:
            try:
                import psutil
            except ImportError:
                return ""
            own = own_address()
            found = psutil.net_if_addrs().items()
            names = (name for name, each in found if any(one.address == own for one in each))
            return next(names, "")

        def first_gpu() -> tuple[str, float]:
            query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
            try:
                lines = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout
                name, _, mib = lines.splitlines()[0].rpartition(",")
                return name.strip(), float(mib) / 1024
            except (OSError, subprocess.SubprocessError, IndexError, ValueError):
                return "", 0.0

        deadline = time.monotonic() + 10
        # A network file system may take its time to show a new file.
        while marker and not os.path.exists(marker) and time.monotonic() < deadline:
            time.sleep(0.2)
        shm = "/dev/shm"
        devices = os.listdir("/dev")
        gpu_name, gpu_gib = first_gpu()
        return {
            "gpu_name": gpu_name,
            "gpu_gib": gpu_gib,
            "gpu_devices": sum(bool(re.fullmatch(r"nvidia\d+", name)) for name in devices),
            "versions": {"python": platform.python_version()}
            | {name: installed(name) for name in packages},
            "code": digest(Path(root) / "isentropic"),
            "sees_runs": bool(marker) and os.path.exists(marker),
            "shm_gib": shutil.disk_usage(shm).free / 2**30 if os.path.isdir(shm) else 0.0,
            "interfaces": tuple(name for _, name in socket.if_nameindex()),
            "interface": interface(),
            "variables": {name: os.environ[name] for name in variables if name in os.environ},
        }

    return look
