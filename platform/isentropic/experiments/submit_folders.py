"""Where a job on a cluster writes. Its working directory is a copy that Ray deletes, so runs must not land there."""

import json
import os
import socket
import sys
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


def link_folders(working_dir: Path, environ: MutableMapping[str, str] = os.environ) -> None:
    """Lets runs/ and sweeps/ of the uploaded copy be the durable ones, for the scripts that look there.

    Raises ValueError where a job of the same tree, in the same copy, has linked another place.
    """
    runs = Path(environ[RUNS])
    _, _, tree = environ.get(ORIGIN, "").partition(":")
    sweeps = Path(tree) / "sweeps" if tree and runs == Path(tree) / "runs" else runs / "sweeps"
    for name, target in (("runs", runs), ("sweeps", sweeps)):
        target.mkdir(parents=True, exist_ok=True)
        link = working_dir / name
        if not link.is_symlink() and not link.exists():
            link.symlink_to(target)
        if link.resolve() != target.resolve():
            raise ValueError(
                f"a job of this same tree writes {name}/ to {link.resolve()}, this one is to write to {target}. "
                "Give both the same --runs, or submit this one after a change of the tree."
            )


def main(command: list[str]) -> None:
    """Entrypoint of the jobs whose script looks into runs/ or sweeps/: settles the folders, becomes the command."""
    if told := use_durable_folders():
        print(told, file=sys.stderr, flush=True)
    if JOB in os.environ:
        try:
            link_folders(Path.cwd())
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)  # bad input
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
