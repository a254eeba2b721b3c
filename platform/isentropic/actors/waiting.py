"""Waits for other processes, with deadlines and errors that name who, for what, and how long."""

import asyncio
import re
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from isentropic.controller.protocols import WaitError

# An actor that hangs outside Python never answers with its stacks: do not wait long for them.
STACKS_S = 5.0
LATE_DEATH_S = 10.0  # Ray reports a dead process seconds after its peers noticed
# How gloo and NCCL put that a collective's deadline passed.
TIMED_OUT = re.compile(r"timed out|timeout", re.IGNORECASE)


async def wait_all(
    refs: Sequence[ray.ObjectRef],
    *,
    who: Sequence[str],
    what: str,
    timeout_s: float,
    actors: Sequence[Any] = (),
) -> list[Any]:
    """Returns the values of `refs`, in order.

    `who[i]` answers `refs[i]`; `actors[i]`, if given, is asked for its stacks.

    Raises WaitError at the deadline, RuntimeError if a process died, and the exception itself if
    the call raised one. If one process died and others complain about it, the dead one is named.
    If some waited in vain for one that hangs, a WaitError names the one that hangs.
    """
    futures = [asyncio.wrap_future(ref.future()) for ref in refs]
    done, pending = await asyncio.wait(
        futures, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION
    )
    failed = [
        i for i, future in enumerate(futures) if future in done and future.exception() is not None
    ]
    if failed and pending:
        await asyncio.wait(pending, timeout=LATE_DEATH_S)
    errors = {
        i: future.exception()
        for i, future in enumerate(futures)
        if future.done() and future.exception()
    }
    late = [i for i, future in enumerate(futures) if not future.done()]
    names = ", ".join(who[i] for i in late)
    if errors:
        _discard(futures)
        dead = [i for i, error in errors.items() if isinstance(error, RayActorError)]
        first = (dead or failed)[0]
        if late and not dead and TIMED_OUT.search(str(errors[first])):
            raise WaitError(
                f"{names} hangs: {who[first]} waited for it in vain ({what}). "
                f"{await _stacks(late, who, actors)}"
            ) from errors[first]
        raise _named(errors[first], who[first], what, names) from errors[first]
    if late:
        _discard(futures)
        stacks = await _stacks(late, who, actors)
        raise WaitError(f"{names} did not answer within {timeout_s:.0f} s ({what}).{stacks}")
    return [future.result() for future in futures]


async def wait_one(
    ref: ray.ObjectRef, *, who: str, what: str, timeout_s: float, actor: Any = None
) -> Any:
    """Waits for one, as `wait_all` does."""
    actors = () if actor is None else (actor,)
    return (await wait_all([ref], who=[who], what=what, timeout_s=timeout_s, actors=actors))[0]


def thread_stacks() -> str:
    """Returns what every thread of this process is doing."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        parts.append(
            f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame)[-12:])}"
        )
    return "\n".join(parts)


def _named(error: BaseException, who: str, what: str, late: str) -> BaseException:
    if isinstance(error, RayActorError):
        # What happened stands first, why last.
        lines = str(error).strip().splitlines()
        # NCCL ends a process whose collective timed out: then the one that hangs is another.
        silent = f" (no answer either: {late})" if late else ""
        reasons = " ... ".join(dict.fromkeys((lines[0], lines[-1])))
        return RuntimeError(f"{who} died ({what}): {reasons}{silent}")
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        error.cause.add_note(f"raised in {who} ({what})")
        return error.cause
    return error


def _discard(futures: Sequence[asyncio.Future]) -> None:
    """Takes note of every result, so that asyncio does not complain about errors nobody read."""
    for future in futures:
        future.add_done_callback(lambda done: done.cancelled() or done.exception())


async def _stacks(late: Sequence[int], who: Sequence[str], actors: Sequence[Any]) -> str:
    """Asks the late ones for their stacks; nothing if there are no actors to ask."""
    if not actors:
        return ""
    futures = [asyncio.wrap_future(actors[i].stacks.remote().future()) for i in late]
    await asyncio.wait(futures, timeout=STACKS_S)
    parts = []
    for name, future in zip([who[i] for i in late], futures, strict=True):
        known = future.done() and future.exception() is None
        stacks = future.result() if known else "gives no stacks: it hangs outside Python"
        parts.append(f"\n--- {name}:\n{stacks}")
    _discard(futures)
    return "".join(parts)
