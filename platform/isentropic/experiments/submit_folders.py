"""Where a job on a cluster writes. Its working directory is a copy that Ray deletes, so runs must not land there."""

import json
import os
import socket
from pathlib import Path

RUNS, CACHE, ORIGIN = "ISENTROPIC_RUNS", "ISENTROPIC_CACHE", "ISENTROPIC_SUBMITTED_FROM"
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the entrypoint of a job, and for nothing else


def origin(root: Path) -> str:
    """Which tree, of which machine, a job was made from."""
    return f"{socket.gethostname()}:{root}"


def use_durable_folders(environ: "os._Environ[str] | dict[str, str]" = os.environ) -> str | None:
    """Inside a Ray job, gives ISENTROPIC_RUNS and ISENTROPIC_CACHE a value where the node has none.

    That is, in this order: what the node's own environment or `submit --runs` says; the folders of the tree that was
    submitted, where it lies on this very machine; a folder in the home of the user that Ray runs as.
    Returns what to tell the user; None outside a job, and where run.dir was set by the node already.
    """
    if "working_dir" not in json.loads(environ.get(JOB) or "{}").get("runtime_env", {}):
        return None
    if RUNS in environ:
        environ.setdefault(CACHE, str(Path(environ[RUNS]) / ".cache" / "models"))
        return None
    host, _, tree = environ.get(ORIGIN, "").partition(":")
    if tree and host == socket.gethostname() and os.access(tree, os.W_OK):
        runs, cache = Path(tree) / "runs", Path(tree) / ".cache" / "models"
    else:
        runs, cache = Path.home() / "isentropic-runs", Path.home() / ".cache" / "isentropic"
    environ[RUNS] = str(runs)
    environ.setdefault(CACHE, str(cache))
    return f"runs are written to {runs} on {socket.gethostname()} ({RUNS} is not set there)"
