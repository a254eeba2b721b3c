"""Inside a reward worker: the checks, behind the wall.

A worker reads its requests from one handle and answers on it in JSON, with the number of the request:
what an answer made it write ahead belongs to none. The run never unpickles what
a worker wrote: a pickle would be a door in the wall.
"""

import json
import math
import os
import pickle
import resource
from collections.abc import Sequence

from isentropic.own.code import OwnError, named, place
from isentropic.records import Prompt
from isentropic.tasks.base import Task, reward_of
from isentropic.tasks.grading import wall
from isentropic.tasks.grading.outcome import (
    NOT_FINITE,
    RAISED,
    Failed,
    Outcome,
    Paid,
    as_json,
    is_payable,
    parts_of,
)

# A prompt, the turns that answer it, and whether the last one was cut off (left out: no).
Item = tuple[Prompt, tuple[str, ...]] | tuple[Prompt, tuple[str, ...], bool]
HANDLE = 3  # of the socket, in a worker


class WrongLength(OwnError):
    """A `grade_together` gave another number of rewards than there were answers."""


def serve(
    task: Task, handle: int, memory_gib: float, timeout_s: float, network: bool = False
) -> None:
    """Runs a worker: gives up whatever no check needs, then answers requests until they end."""
    _keep_one_handle(handle)
    os.environ.clear()
    if hasattr(task, "enter_worker"):
        task.enter_worker()  # what it must open before the wall
    layers = wall.enter(memory_gib, network=network)
    _answer({"missing": layers.missing, "gaps": layers.gaps})
    with open(HANDLE, "rb") as requests:
        while True:
            try:
                number, items = pickle.load(requests)
            except EOFError:
                return
            outcomes = [as_json(outcome) for outcome in check_all(task, items, cpu_s=timeout_s)]
            _answer({"number": number, "outcomes": outcomes})


def check_all(task: Task, items: Sequence[Item], *, cpu_s: float | None = None) -> list[Outcome]:
    """Returns an outcome per item; in one call if the task has a `grade_together`.

    One that fails on the whole batch is asked again for each item, so that each has its own outcome.
    An exception in its list is the error of that item. If it gives another number of rewards than
    there are items, that is the error of all: asked for each item, it would perhaps give one, of
    which nobody knows whose it is.
    """
    together = getattr(task, "grade_together", None)
    if together is not None and len(items) > 1:
        _limit(cpu_s)
        try:
            return [_outcome(task, reward) for reward in together(items)]
        except WrongLength as error:
            return [_failed(task, error)] * len(items)
        except Exception:  # what fails here fails again below, where it is reported
            pass
    return [check(task, *item, cpu_s=cpu_s) for item in items]


def check(
    task: Task,
    prompt: Prompt,
    turns: tuple[str, ...],
    truncated: bool = False,
    *,
    cpu_s: float | None = None,
) -> Outcome:
    """Returns the reward, or 'raised' (with the reason) or 'not_finite'.

    Args:
        truncated: the last turn was cut off at the limit of tokens.
        cpu_s: CPU time left to this process from now on; None is no limit.
    """
    _limit(cpu_s)
    try:
        return _outcome(task, reward_of(task, prompt, turns, truncated=truncated))
    # Foreign code on foreign text: whatever it raises is a wrong answer, which the caller counts.
    except Exception as error:
        return _failed(task, error)


def _failed(task: Task, error: Exception) -> Outcome:
    """Returns the kind of the error, and what the user's own code says of it."""
    kind = getattr(error, "kind", None) or RAISED
    # A call that the user's function does not take fails before any line of its file.
    where = place(error) or getattr(task, "place", "")
    # Other checks explain nothing: an answer can write into what they say.
    return Failed(kind, f"{where}: {named(error)}") if where else kind


def _outcome(task: Task, reward: float | Exception) -> Outcome:
    if isinstance(reward, Exception):
        return _failed(task, reward)
    parts = parts_of(reward)
    number = float(reward)
    if not all(map(is_payable, [number, *parts.values()])):
        return NOT_FINITE
    return Paid(number, parts) if parts else number


def _limit(cpu_s: float | None) -> None:
    """Limits the CPU time that this process may use from now on; None is no limit."""
    if cpu_s is not None:
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + cpu_s) + 1, hard))


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
