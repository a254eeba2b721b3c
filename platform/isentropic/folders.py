"""Where runs and sweeps lie: ISENTROPIC_RUNS, or runs/ of the working folder.

The working directory of a Ray job is a copy of the tree that Ray deletes, so nothing that lasts may
land there.
"""

import json
import os
import socket
import sys
from collections.abc import MutableMapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
RUNS = "ISENTROPIC_RUNS"
CACHE = "ISENTROPIC_CACHE"
CACHED = "cache:"  # in front of a folder's name: it lies in the cache
ORIGIN = "ISENTROPIC_SUBMITTED_FROM"
RAY_JOB = (
    "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the entrypoint of a job, and for nothing else
)

# Libraries read these themselves, and most of them take an empty one for a value: HF_HOME="" is
# the working folder to one and HF_HUB_OFFLINE="" is no answer to another.
NAMES = ("NETRC", "TMPDIR")
PREFIXES = ("HF_", "ISENTROPIC_", "RAY_", "TRANSFORMERS_", "WANDB_", "XDG_")


def variable(name: str) -> str | None:
    """Return an environment variable; one that is set but empty or blank counts as unset."""
    value = os.environ.get(name, "")
    return value if value.strip() else None


def unset_empty(environ: MutableMapping[str, str] = os.environ) -> None:
    """Remove the variables that are empty or blank, so that every reader takes them for unset."""
    for name, value in list(environ.items()):
        if not value.strip() and (name in NAMES or name.startswith(PREFIXES)):
            del environ[name]


def runs_folder() -> Path:
    """Return the folder of all runs and sweeps."""
    return Path(variable(RUNS) or "runs")


def cache_folder() -> Path:
    """Return the folder of made models and drawings, the same from every working folder.

    It is ISENTROPIC_CACHE; else .cache/models of the checkout, or, if the package was installed
    from a wheel, .cache/isentropic/models of the user's home.
    """
    checkout = (PROJECT / "pyproject.toml").is_file()
    default = PROJECT / ".cache" if checkout else Path.home() / ".cache" / "isentropic"
    return Path(variable(CACHE) or default / "models").absolute()


def ray_folder() -> Path:
    """Return the folder in which a Ray of this machine puts its session, with its sockets."""
    return Path(variable("RAY_TMPDIR") or variable("TMPDIR") or "/tmp") / "ray"


def origin(root: Path) -> str:
    """Return which tree, of which machine, a job was made from."""
    return f"{socket.gethostname()}:{root}"


def use_durable_folders(environ: MutableMapping[str, str] = os.environ) -> None:
    """Give ISENTROPIC_RUNS and ISENTROPIC_CACHE a value inside a Ray job whose node has none.

    Both follow, in this order: the node's own environment (or `runs=` of jobs/submit.py); the tree
    that was submitted, if it lies on this very machine; the cache beside the runs; a folder in the
    home of the user that Ray runs as.
    """
    if "working_dir" not in json.loads(environ.get(RAY_JOB) or "{}").get("runtime_env", {}):
        return
    host, _, tree = environ.get(ORIGIN, "").partition(":")
    submitted_here = tree and host == socket.gethostname() and os.access(tree, os.W_OK)
    here = Path(tree) if submitted_here else None
    runs = Path(environ.get(RUNS) or (here / "runs" if here else Path.home() / "isentropic-runs"))
    if not environ.get(RUNS):
        print(
            f"runs are written to {runs} of {socket.gethostname()} ({RUNS} is not set)",
            file=sys.stderr,
            flush=True,
        )
    environ[RUNS] = str(runs)
    if not environ.get(CACHE):
        environ[CACHE] = str((here or runs) / ".cache" / "models")
