"""Where runs and sweeps lie: ISENTROPIC_RUNS, or runs/ of the folder one is in.

The working directory of a Ray job is a copy of the tree that Ray deletes, so nothing that lasts may land there.
"""

import json
import os
import socket
import sys
from collections.abc import MutableMapping
from pathlib import Path

RUNS, CACHE, ORIGIN = "ISENTROPIC_RUNS", "ISENTROPIC_CACHE", "ISENTROPIC_SUBMITTED_FROM"
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the entrypoint of a job, and for nothing else


def runs_folder() -> Path:
    """The folder of all runs and sweeps."""
    return Path(os.environ.get(RUNS) or "runs")


def origin(root: Path) -> str:
    """Which tree, of which machine, a job was made from."""
    return f"{socket.gethostname()}:{root}"


def use_durable_folders(environ: MutableMapping[str, str] = os.environ) -> None:
    """Inside a Ray job, gives ISENTROPIC_RUNS and ISENTROPIC_CACHE a value where the node has none. Scripts start so.

    Both follow, in this order: the node's own environment (or `submit --runs`); the tree that was submitted, where it
    lies on this very machine; the cache beside the runs; a folder in the home of the user that Ray runs as.
    """
    if "working_dir" not in json.loads(environ.get(JOB) or "{}").get("runtime_env", {}):
        return
    host, _, tree = environ.get(ORIGIN, "").partition(":")
    here = (
        Path(tree) if tree and host == socket.gethostname() and os.access(tree, os.W_OK) else None
    )
    runs = Path(environ.get(RUNS) or (here / "runs" if here else Path.home() / "isentropic-runs"))
    if not environ.get(RUNS):
        print(
            f"runs are written to {runs} of {socket.gethostname()} ({RUNS} is not set)",
            file=sys.stderr,
            flush=True,
        )
    environ[RUNS] = str(runs)
    environ.setdefault(CACHE, str((here or runs) / ".cache" / "models"))
