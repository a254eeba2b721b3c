"""Inside a reward worker: the checks, behind the wall.

A worker reads its requests from one handle and answers on it in JSON. The run never unpickles what a worker wrote: a
pickle would be a door in the wall.
"""

import json
import math
import os
import pickle
import resource

from isentropic.records import Prompt
from isentropic.tasks.base import Task
from isentropic.tasks.grading import wall

Item = tuple[Prompt, tuple[str, ...]]  # a prompt and the turns that answer it
Outcome = float | str  # a reward, or the kind of its error
RAISED, NOT_FINITE = "raised", "not_finite"
HANDLE = 3  # of the socket, in a worker


def serve(task: Task, handle: int, memory_gib: float, timeout_s: float) -> None:
    """What a worker does all its life. First gives up what no check needs, then answers requests until they end."""
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
            _answer([check(task, prompt, turns, cpu_s=timeout_s) for prompt, turns in items])


def check(
    task: Task, prompt: Prompt, turns: tuple[str, ...], cpu_s: float | None = None
) -> Outcome:
    """The reward, or 'raised' or 'not_finite'. `cpu_s` bounds the CPU time left to this process."""
    if cpu_s is not None:
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + cpu_s) + 1, hard))
    try:
        reward = float(task.grade(prompt, turns))
    # Foreign code on foreign text: whatever it raises is a wrong answer, counted and shown by the caller.
    except Exception:
        return RAISED
    return reward if math.isfinite(reward) else NOT_FINITE


def _keep_one_handle(handle: int) -> None:
    """Closes the other handles that a worker is born with. Each is a way out: the terminal, the server's socket."""
    os.dup2(handle, HANDLE)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    _, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.closerange(HANDLE + 1, highest)


def _answer(values: object) -> None:
    line = json.dumps(values).encode() + b"\n"
    while line:
        line = line[os.write(HANDLE, line) :]
