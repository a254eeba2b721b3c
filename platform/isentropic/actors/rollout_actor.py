"""Holds one engine in a Ray actor. Every method is a call on the engine."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import ray

from isentropic.actors.transport import Loaded
from isentropic.actors.transport.objects import PublishedWeights, RemoteBuckets
from isentropic.actors.waiting import thread_stacks
from isentropic.records import Completion, Request, Usage
from isentropic.rollout import Engine
from isentropic.weights.channel import Round

MAX_CALLS = 8  # `generate` calls of one draw that an actor runs at once
MAX_DRAWS = 3  # at once: those of a step, of an evaluation, and of the probe


class StaleEngineError(RuntimeError):
    """The process was started again since its engine was loaded: it needs the current weights."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Completions of a call as arrays: objects would cost more to send than to sample."""

    index: np.ndarray  # [B] which request of the call
    length: np.ndarray  # [B] tokens
    stopped: np.ndarray  # [B] True: stop, False: length
    token_ids: np.ndarray  # all end to end
    logprob: np.ndarray  # same
    policy_version: int


@dataclass(frozen=True, slots=True)
class Health:
    """What an engine has done since it started."""

    pid: int
    node_id: str
    policy_version: int
    steps: int
    tokens: int
    num_running: int


def pack(completions: Sequence[Completion], index_of: dict) -> Packed:
    return Packed(
        index=np.array([index_of[part.key, part.turn] for part in completions], dtype=np.int32),
        length=np.array([len(part.token_ids) for part in completions], dtype=np.int32),
        stopped=np.array([part.finish_reason == "stop" for part in completions]),
        token_ids=np.concatenate([part.token_ids for part in completions]).astype(np.int32),
        logprob=np.concatenate([part.logprob for part in completions]),
        policy_version=completions[0].policy_version,
    )


def unpack(packed: Packed, requests: Sequence[Request]) -> list[Completion]:
    """Returns completions with memory of their own: a queue may keep one of them for long."""
    ends = np.cumsum(packed.length)
    return [
        Completion(
            key=requests[index].key,
            turn=requests[index].turn,
            token_ids=packed.token_ids[end - length : end].astype(np.int64),
            logprob=packed.logprob[end - length : end].copy(),
            finish_reason="stop" if stopped else "length",
            policy_version=packed.policy_version,
        )
        for index, length, stopped, end in zip(
            packed.index, packed.length, packed.stopped, ends, strict=True
        )
    ]


@ray.remote(concurrency_groups={"engine": MAX_CALLS * MAX_DRAWS, "health": 2})
class RolloutActor:
    """One engine on its GPUs; `health` is answered while it generates.

    Args:
        shared: learner ranks are on the same GPUs.
    """

    def __init__(self, make_engine: Callable[[], Engine], shared: bool) -> None:
        self._make = make_engine
        # Ray restarts a dead process at once. On GPUs that ranks may have now, its engine waits for
        # the next load of weights.
        waits = shared and ray.get_runtime_context().was_current_actor_reconstructed
        self._engine = None if waits else make_engine()
        self._cancelled: dict[int, threading.Event] = {}

    @ray.method(concurrency_group="engine", num_returns="streaming")
    def generate(self, call: int, policy_version: int, requests: list[Request]) -> Iterator[Packed]:
        """Refuses if the engine has other weights: a restarted one must be loaded first."""
        version = self._engine.policy_version if self._engine else None
        if policy_version != version:
            raise StaleEngineError(f"asked for policy version {policy_version}, has {version}")
        index_of = {(request.key, request.turn): i for i, request in enumerate(requests)}
        assert len(index_of) == len(requests), "each request once in a call"
        cancelled = self._cancelled.setdefault(call, threading.Event())
        try:
            for completions in self._engine.generate(requests, cancelled=cancelled.is_set):
                yield pack(completions, index_of)
        finally:
            self._cancelled.pop(call, None)

    @ray.method(concurrency_group="health")
    def cancel(self, call: int) -> None:
        """Ends a `generate` whose caller has gone."""
        if call in self._cancelled:
            self._cancelled[call].set()

    @ray.method(concurrency_group="engine")
    def load_weights(self, published: PublishedWeights) -> Loaded:
        self._engine = self._engine or self._make()
        seconds = self._engine.load_weights(published.policy_version, RemoteBuckets(published))
        return Loaded(self._engine.policy_version, seconds or {})

    @ray.method(concurrency_group="engine")
    def receive_weights(self, meeting: Round, first_rank: int) -> Loaded:
        self._engine = self._engine or self._make()
        seconds = self._engine.receive_weights(meeting, first_rank)
        return Loaded(self._engine.policy_version, seconds)

    @ray.method(concurrency_group="engine")
    def sleep(self) -> None:
        if self._engine:
            self._engine.sleep()

    @ray.method(concurrency_group="health")
    def take_usage(self) -> Usage:
        return self._engine.take_usage() if self._engine else Usage()

    @ray.method(concurrency_group="health")
    def health(self) -> Health:
        engine = self._engine
        counters = ("policy_version", "steps", "tokens", "num_running")
        values = [getattr(engine, name) if engine else 0 for name in counters]
        return Health(os.getpid(), ray.get_runtime_context().get_node_id(), *values)

    @ray.method(concurrency_group="health")
    def stacks(self) -> str:
        return thread_stacks()
