"""Inside a reward worker: the checks, behind the wall.

A worker reads its requests from one handle and answers on it in JSON. The run never unpickles what
a worker wrote: a pickle would be a door in the wall.
"""

import json
import math
import os
import pickle
import resource

from isentropic.records import Prompt
from isentropic.tasks.base import Task, reward_of
from isentropic.tasks.grading import wall

# A prompt, the turns that answer it, and whether the last one was cut off (left out: no).
Item = tuple[Prompt, tuple[str, ...]] | tuple[Prompt, tuple[str, ...], bool]
Outcome = float | str  # a reward, or the kind of its error
RAISED = "raised"
NOT_FINITE = "not_finite"
HANDLE = 3  # of the socket, in a worker


def serve(task: Task, handle: int, memory_gib: float, timeout_s: float) -> None:
    """Runs a worker: gives up whatever no check needs, then answers requests until they end."""
    _keep_one_handle(handle)
    os.environ.clear()
    layers = wall.enter(memory_gib)
    _answer({"missing": layers.missing, "gaps": layers.gaps})
    with open(HANDLE, "rb") as requests:
        while True:
            try:
                items = pickle.load(requests)
            except EOFError:
                return
            _answer([check(task, *item, cpu_s=timeout_s) for item in items])


def check(
    task: Task,
    prompt: Prompt,
    turns: tuple[str, ...],
    truncated: bool = False,
    *,
    cpu_s: float | None = None,
) -> Outcome:
    """Returns the reward, or 'raised' or 'not_finite'.

    Args:
        truncated: the last turn was cut off at the limit of tokens.
        cpu_s: CPU time left to this process from now on; None is no limit.
    """
    if cpu_s is not None:
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + cpu_s) + 1, hard))
    try:
        reward = float(reward_of(task, prompt, turns, truncated=truncated))
    # Foreign code on foreign text: whatever it raises is a wrong answer, which the caller counts.
    except Exception:
        return RAISED
    return reward if math.isfinite(reward) else NOT_FINITE


def _keep_one_handle(handle: int) -> None:
    """Closes all other handles that a worker inherits."""
    # Each is a way out of the wall: the terminal, the server's socket.
    os.dup2(handle, HANDLE)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    _, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.closerange(HANDLE + 1, highest)


def _answer(values: object) -> None:
    """Writes one line of JSON."""
    line = json.dumps(values).encode() + b"\n"
    while line:
        line = line[os.write(HANDLE, line) :]
