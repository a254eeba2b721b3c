"""Holds one learner rank in a Ray actor. Every method is a call on the learner."""

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from isentropic.actors.nodes.network import interface_towards
from isentropic.actors.transport.objects import PublishedWeights, publish
from isentropic.actors.waiting import thread_stacks
from isentropic.durable import FileEntry
from isentropic.learner.learner import Learner
from isentropic.records import MicroBatch, StepBatch, StepResult, TokenScores
from isentropic.weights.buckets import fill_buckets
from isentropic.weights.channel import Round
from isentropic.weights.lending import lend
from isentropic.weights.outbox import Outbox
from isentropic.weights.parcels import lay_out

MakeLearner = Callable[..., Learner]  # (rank=, world_size=, init_method=)


@ray.remote(concurrency_groups={"learner": 1, "saving": 1, "sending": 1, "health": 2})
class LearnerActor:
    """One rank on its own GPU, built by `setup`: only where all actors lie decides which rank it is.

    All ranks are called together.
    """

    def __init__(self, make_learner: MakeLearner, num_ranks: int) -> None:
        self._make = make_learner
        self._num_ranks = num_ranks
        self._outbox: Outbox | None = None

    @ray.method(concurrency_group="health")
    def place(self) -> tuple[str, list[str]]:
        """Returns the node, and the GPUs there: numbers, or names if CUDA_VISIBLE_DEVICES has them."""
        return ray.get_runtime_context().get_node_id(), [str(gpu) for gpu in ray.get_gpu_ids()]

    @ray.method(concurrency_group="health")
    def address(self) -> str:
        """Returns where the ranks meet, for rank 0: this host and a port that is free now."""
        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return f"tcp://{host}:{probe.getsockname()[1]}"

    @ray.method(concurrency_group="learner")
    def setup(self, init_method: str, rank: int) -> None:
        """Joins the other ranks and builds this one's shard."""
        self._rank = rank
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface_towards(init_method))
        self._learner = self._make(rank=rank, world_size=self._num_ranks, init_method=init_method)

    @ray.method(concurrency_group="learner")
    def score(self, microbatches: Sequence[MicroBatch], reference: bool) -> list[TokenScores]:
        return self._learner.score(microbatches, reference=reference)

    @ray.method(concurrency_group="learner")
    def update(self, batch: StepBatch) -> StepResult:
        return self._learner.update(batch)

    @ray.method(concurrency_group="learner")
    def publish(self, dtype: str) -> PublishedWeights | None:
        """Publishes on rank 0; the others take part in gathering and return None."""
        weights = self._learner.named_weights(getattr(torch, dtype))
        try:
            if self._rank == 0:
                return publish(
                    self._learner.policy_version, fill_buckets(weights, getattr(torch, dtype))
                )
            return None
        finally:
            # To the end, even after an error: the other ranks are inside the same collectives.
            for _ in weights:
                pass

    @ray.method(concurrency_group="learner")
    def begin_post(self, dtype: str) -> tuple[int, int, tuple[str, int]]:
        """Returns policy version, serial number and address of what `post` will gather; rank 0."""
        if self._outbox is None:
            self._outbox = Outbox(ray.util.get_node_ip_address())
        serial = self._outbox.open(lay_out(self._learner.weight_shapes(), getattr(torch, dtype)))
        return self._learner.policy_version, serial, self._outbox.address

    @ray.method(concurrency_group="learner")
    def post(self, serial: int, dtype: str) -> None:
        """Gathers the weights for `send`, on rank 0; the others take part in gathering."""
        weights = self._learner.named_weights(getattr(torch, dtype))
        try:
            if self._rank == 0:
                self._outbox.post(serial, weights)
        finally:
            # As in `publish`.
            for _ in weights:
                pass

    @ray.method(concurrency_group="sending")
    def send(self, meeting: Round) -> dict[str, float]:
        """Sends what is or will be gathered to the engines of a round; rank 0."""
        return self._outbox.send(meeting)

    @ray.method(concurrency_group="learner")
    def lend(self, meeting: Round, dtype: str) -> dict[str, float]:
        """Gathers the weights for the engines of a round, in memory that they map; every rank.

        Also while the state is on the host: `offload` may have come before.
        """
        assert meeting.policy_version == self._learner.policy_version, (
            f"weights of version {meeting.policy_version} were published, the learner has those of "
            f"{self._learner.policy_version} by now"
        )
        layout = lay_out(self._learner.weight_shapes(), getattr(torch, dtype))
        weights = self._learner.named_weights(getattr(torch, dtype))
        try:
            return lend(meeting, self._rank, layout, weights)
        finally:
            # As in `publish`.
            for _ in weights:
                pass

    @ray.method(concurrency_group="health")
    def call_off(self, meeting: Round, why: str) -> None:
        self._outbox.call_off(meeting, why)

    @ray.method(concurrency_group="health")
    def forget(self, before: int) -> None:
        self._outbox.forget(before)

    @ray.method(concurrency_group="learner")
    def offload(self) -> None:
        self._learner.offload()

    @ray.method(concurrency_group="learner")
    def restore(self) -> None:
        self._learner.restore()

    @ray.method(concurrency_group="learner")
    def save(self, folder: Path) -> dict[str, FileEntry]:
        return self._learner.save(folder)

    @ray.method(concurrency_group="learner")
    def begin_save(self, folder: Path) -> None:
        self._learner.begin_save(folder)

    @ray.method(concurrency_group="saving")
    def end_save(self) -> dict[str, FileEntry]:
        return self._learner.end_save()

    @ray.method(concurrency_group="learner")
    def load(self, folder: Path) -> None:
        self._learner.load(folder)

    @ray.method(concurrency_group="learner")
    def configure(self, settings: dict[str, Any]) -> None:
        self._learner.configure(**settings)

    @ray.method(concurrency_group="learner")
    def remember(self) -> None:
        self._learner.remember()

    @ray.method(concurrency_group="learner")
    def recall(self) -> None:
        self._learner.recall()

    @ray.method(concurrency_group="learner")
    def is_remembered(self) -> bool:
        return self._learner.is_remembered()

    @ray.method(concurrency_group="learner")
    def export(self, folder: Path) -> None:
        self._learner.export(folder)

    @ray.method(concurrency_group="health")
    def stacks(self) -> str:
        return thread_stacks()
