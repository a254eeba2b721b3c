"""Waits for other processes, with deadlines and errors that name who, for what, and how long."""

import asyncio
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
    if errors:
        _discard(futures)
        dead = [i for i, error in errors.items() if isinstance(error, RayActorError)]
        first = (dead or failed)[0]
        raise _named(errors[first], who[first], what) from errors[first]
    late = [i for i, future in enumerate(futures) if not future.done()]
    if late:
        _discard(futures)
        names = ", ".join(who[i] for i in late)
        stacks = await _stacks([actors[i] for i in late], [who[i] for i in late]) if actors else ""
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


def _named(error: BaseException, who: str, what: str) -> BaseException:
    if isinstance(error, RayActorError):
        # What happened stands first, why last.
        lines = str(error).strip().splitlines()
        return RuntimeError(
            f"{who} died ({what}): {' ... '.join(dict.fromkeys((lines[0], lines[-1])))}"
        )
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        error.cause.add_note(f"raised in {who} ({what})")
        return error.cause
    return error


def _discard(futures: Sequence[asyncio.Future]) -> None:
    """Takes note of every result, so that asyncio does not complain about errors nobody read."""
    for future in futures:
        future.add_done_callback(lambda done: done.cancelled() or done.exception())


async def _stacks(actors: Sequence[Any], who: Sequence[str]) -> str:
    futures = [asyncio.wrap_future(actor.stacks.remote().future()) for actor in actors]
    await asyncio.wait(futures, timeout=STACKS_S)
    parts = []
    for name, future in zip(who, futures, strict=True):
        known = future.done() and future.exception() is None
        stacks = future.result() if known else "gives no stacks: it hangs outside Python"
        parts.append(f"\n--- {name}:\n{stacks}")
    _discard(futures)
    return "".join(parts)
