"""Two real ranks behind the group, and weights on their way to the engines."""

import os
import signal
from datetime import timedelta

import numpy as np
import pytest

from isentropic.actors import waiting
from isentropic.actors.learner_actor import LearnerActor
from isentropic.actors.learner_group import RayLearnerGroup
from isentropic.actors.ray_runtime import worker_env
from isentropic.controller.protocols import LearnerLost
from isentropic.records import MicroBatch, StepBatch

pytestmark = pytest.mark.engine

GENEROUS_S = 300.0  # for what is waited for: the machine may be busy


def one_sequence(request, completion) -> MicroBatch:
    """A completion with its prompt, as the learner packs it."""
    ids = np.concatenate([request.token_ids, completion.token_ids])
    start, tokens = len(request.token_ids), len(completion.token_ids)
    return MicroBatch(
        token_ids=ids,
        position_ids=np.arange(len(ids)),
        cu_seqlens=np.array([0, len(ids)]),
        predict=np.arange(start - 1, len(ids) - 1),
        target=completion.token_ids,
        sequence_id=np.zeros(tokens, dtype=np.int64),
        rows=np.array([0]),
    )


def test_engines_have_the_learners_weights(actors, loop, rollouts):
    """What engines say of their own tokens is what the ranks that published to them say."""
    requests = rollouts.requests(2, 1)

    async def probe():
        weights = await actors.learner.publish()
        await actors.pool.load_weights(weights)
        found = {each.key: each async for batch in actors.pool.generate(requests) for each in batch}
        batches = [[one_sequence(request, found[request.key])] for request in requests]
        return [found[request.key] for request in requests], await actors.learner.score(
            batches, reference=False
        )

    completions, scores = loop.run_until_complete(probe())
    for completion, [score] in zip(completions, scores, strict=True):
        assert completion.policy_version == 0
        np.testing.assert_allclose(score.logprob, completion.logprob, atol=1e-4)


def test_a_dead_rank_is_named(ray_session, loop):
    class Lonely:  # inside the test, so that it travels to the workers by value
        """A rank that dies in the middle of an update, and one that then loses its peer."""

        def __init__(self, *, rank, world_size, init_method):
            self._rank = rank

        def update(self, batch):
            if self._rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("Connection closed by peer")

    rank_actor = LearnerActor.options(runtime_env={"env_vars": worker_env(1)})
    group = RayLearnerGroup(
        [rank_actor.remote(Lonely, 2) for _ in range(2)], dtype="float32", timeout_s=GENEROUS_S
    )
    loop.run_until_complete(group.setup(GENEROUS_S))
    batch = StepBatch(step=7, updates=(), coefficients={})
    with pytest.raises(RuntimeError, match=r"^learner rank 1 died \(updates of step 7\)"):
        loop.run_until_complete(group.update([batch, batch]))
    group.close()


def test_ranks_that_share_a_batch_answer_for_it_once(ray_session, loop):
    class Sharing:  # inside the test, so that it travels to the workers by value
        """Says who it is and what it was given."""

        def __init__(self, *, rank, world_size, init_method):
            self._rank = rank

        def score(self, microbatches, reference):
            return (self._rank, microbatches)

        def update(self, batch):
            return (self._rank, batch.step)

    rank_actor = LearnerActor.options(runtime_env={"env_vars": worker_env(1)}, num_cpus=0)
    group = RayLearnerGroup(
        [rank_actor.remote(Sharing, 4) for _ in range(4)],
        dtype="float32",
        timeout_s=GENEROUS_S,
        context_parallel=2,
    )
    loop.run_until_complete(group.setup(GENEROUS_S))
    assert group.num_batches == 2
    first, second = (StepBatch(step=step, updates=(), coefficients={}) for step in (1, 2))
    assert loop.run_until_complete(group.update([first, second])) == [(0, 1), (2, 2)]
    scores = loop.run_until_complete(group.score([["a"], ["b"]], reference=False))
    assert scores == [(0, ["a"]), (2, ["b"])]
    group.close()


def test_a_rank_that_hangs_is_found_by_the_others(ray_session, loop, monkeypatch):
    """Rank 1 never comes to the collective: rank 0's deadline there ends the call, not the call's."""
    monkeypatch.setattr(waiting, "LATE_DEATH_S", 1.0)

    class Stuck:  # inside the test, so that it travels to the workers by value
        def __init__(self, *, rank, world_size, init_method):
            import torch

            from isentropic.learner import sharding

            self._rank = rank
            sharding.join(
                rank=rank, world_size=world_size, init_method=init_method, timeout_s=GENEROUS_S
            )
            # Of a group of its own: to join may take longer on a busy machine.
            self._group = torch.distributed.new_group(timeout=timedelta(seconds=5))

        def update(self, batch):
            import time

            import torch

            if self._rank == 1:
                time.sleep(GENEROUS_S)
            torch.distributed.all_reduce(torch.ones(1), group=self._group)

    env = worker_env(1, GLOO_SOCKET_IFNAME="lo")
    rank_actor = LearnerActor.options(runtime_env={"env_vars": env})
    group = RayLearnerGroup(
        [rank_actor.remote(Stuck, 2) for _ in range(2)], dtype="float32", timeout_s=GENEROUS_S
    )
    loop.run_until_complete(group.setup(GENEROUS_S))
    batch = StepBatch(step=7, updates=(), coefficients={})
    with pytest.raises(LearnerLost, match=r"(?s)^learner rank 1 hangs: .*step 7.*time.sleep"):
        loop.run_until_complete(group.update([batch, batch]))
    group.close()
