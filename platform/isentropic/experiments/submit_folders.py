"""Where a job on a cluster writes. Its working directory is a copy that Ray deletes, so runs must not land there."""

import json
import os
import socket
from collections.abc import MutableMapping
from pathlib import Path

RUNS, CACHE, ORIGIN = "ISENTROPIC_RUNS", "ISENTROPIC_CACHE", "ISENTROPIC_SUBMITTED_FROM"
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the entrypoint of a job, and for nothing else


def origin(root: Path) -> str:
    """Which tree, of which machine, a job was made from."""
    return f"{socket.gethostname()}:{root}"


def use_durable_folders(environ: MutableMapping[str, str] = os.environ) -> str | None:
    """Inside a Ray job, gives ISENTROPIC_RUNS and ISENTROPIC_CACHE a value where the node has none.

    Both follow, in this order: the node's own environment (or `submit --runs`); the tree that was submitted, where it
    lies on this very machine; the cache beside the runs; a folder in the home of the user that Ray runs as.
    Returns where runs go, to tell the user; None outside a job, and where the environment had said it.
    """
    if "working_dir" not in json.loads(environ.get(JOB) or "{}").get("runtime_env", {}):
        return None
    host, _, tree = environ.get(ORIGIN, "").partition(":")
    here = Path(tree) if tree and host == socket.gethostname() and os.access(tree, os.W_OK) else None
    runs = Path(environ.get(RUNS) or (here / "runs" if here else Path.home() / "isentropic-runs"))
    told = None if RUNS in environ else f"runs are written to {runs} of {socket.gethostname()} ({RUNS} is not set)"
    environ[RUNS] = str(runs)
    environ.setdefault(CACHE, str((here or runs) / ".cache" / "models"))
    return told
