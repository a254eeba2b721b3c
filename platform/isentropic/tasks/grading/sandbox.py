"""Inside a reward worker: what a check may use, and the checks themselves.

A worker is a process of its own, so a check that hangs or dies costs one answer. Limits: memory and CPU seconds
(rlimit), no environment but a few harmless names, no core files. An audit hook refuses the network, new processes
and writing to files; Python code cannot take it off again. It is a second wall: no task passes an answer to `eval`.
"""

import ctypes
import math
import os
import resource
import signal
import sys
from typing import Any

from isentropic.records import Prompt
from isentropic.tasks.base import Task

KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "PYTHONHASHSEED", "TZ")
REFUSED_EVENTS = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.kill",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.chmod",
    "os.link",
    "os.symlink",
    "os.truncate",
    "shutil.",
    "ctypes.dlopen",
    "urllib.",
    "ftplib.",
    "smtplib.",
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PR_SET_PDEATHSIG = 1

_task: Task | None = None
_timeout_s = 0.0


def enter(task: Task, memory_gib: float, timeout_s: float) -> None:
    """First call in a worker: takes the task, then gives up what no check needs."""
    global _task, _timeout_s
    _task, _timeout_s = task, timeout_s
    # Die with the parent: a reward worker must not outlive a killed run.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    os.environ.clear()
    os.environ.update(kept)
    memory = int(memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(_audit)


def check(items: list[tuple[Prompt, tuple[str, ...]]]) -> list[float | str]:
    """Rewards in order; a check that raised, or gave no finite number, has the kind of its error instead."""
    return [check_one(_task, prompt, turns, cpu_s=_timeout_s) for prompt, turns in items]


def check_one(
    task: Task, prompt: Prompt, turns: tuple[str, ...], cpu_s: float | None = None
) -> float | str:
    """The reward, or 'raised' or 'not_finite'. `cpu_s` bounds the CPU time left to this process."""
    if cpu_s is not None:
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + cpu_s) + 1, hard))
    try:
        reward = float(task.grade(prompt, turns))
    except (
        Exception
    ):  # foreign code: whatever it raises is one answer's fault, counted and shown by the caller
        return "raised"
    return reward if math.isfinite(reward) else "not_finite"


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(REFUSED_EVENTS):
        raise PermissionError(f"a reward check may not do {event}")
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES:
        raise PermissionError(f"a reward check may not write to {arguments[0]!r}")
