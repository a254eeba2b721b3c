"""What a process on a node sees there. It is sent as it stands: it needs nothing but Python."""

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
from typing import Any

SHARED_MEMORY = "/dev/shm"
MARKER_S = 10.0  # that a network file system may take to show a new file


def look_around(
    marker: str | None, root: str, head: str, packages: list[str], variables: list[str]
) -> dict[str, Any]:
    """Returns the fields of a `NodeView` that are seen from inside.

    Args:
        marker: path of a file that is looked for.
        root: folder in which this project's code would lie.
        head: address and port of the head.
        packages, variables: whose versions and values are wanted.
    """
    sees_runs = bool(marker) and _appears(marker)
    gpu_name, gpu_gib = _first_gpu()
    return {
        "gpu_name": gpu_name,
        "gpu_gib": gpu_gib,
        "gpu_devices": sum(bool(re.fullmatch(r"nvidia\d+", name)) for name in os.listdir("/dev")),
        "versions": {"python": platform.python_version()}
        | {name: _installed(name) for name in packages},
        "code": _digest(Path(root) / "isentropic"),
        "sees_runs": sees_runs,
        "shm_gib": _free_gib(SHARED_MEMORY),
        "interfaces": tuple(name for _, name in socket.if_nameindex()),
        "interface": _interface_towards(head),
        "variables": {name: os.environ[name] for name in variables if name in os.environ},
    }


def _appears(marker: str) -> bool:
    deadline = time.monotonic() + MARKER_S
    while not os.path.exists(marker):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _first_gpu() -> tuple[str, float]:
    """Returns name and GiB; "" and 0 without nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout
        name, _, mib = lines.splitlines()[0].rpartition(",")
        return name.strip(), float(mib) / 1024
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return "", 0.0


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _digest(folder: Path) -> str | None:
    files = sorted(folder.rglob("*.py"))
    texts = [str(file.relative_to(folder)).encode() + file.read_bytes() for file in files]
    return hashlib.sha256(b"\0".join(texts)).hexdigest() if texts else None


def _free_gib(folder: str) -> float:
    return shutil.disk_usage(folder).free / 2**30 if os.path.isdir(folder) else 0.0


def _interface_towards(head: str) -> str:
    """Returns the interface from which the head is reached; "" if not known."""
    try:
        import psutil
    except ImportError:
        return ""
    host, _, port = head.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect((host, int(port)))  # sends nothing
        own = route.getsockname()[0]
    found = psutil.net_if_addrs().items()
    return next((name for name, each in found if any(one.address == own for one in each)), "")
