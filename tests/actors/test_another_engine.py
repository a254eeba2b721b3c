"""Another engine is a class and a line in `ENGINES`: actors, pool and health run as they are."""

import os
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from isentropic.actors.launch import start_actors
from isentropic.records import Completion, Usage
from isentropic.rollout import ENGINES

pytestmark = pytest.mark.engine


def echo_classes():
    """An engine that answers with the prompt backwards, and a learner of one number: made in a function, so that
    they travel to the actors by value."""

    class EchoEngine:
        def __init__(self, model_path, config, *, max_length, device, **_):
            assert os.environ["ECHO"] == device, "started in the environment that it asked for"
            if os.path.exists(model_path):
                with open(model_path, "a") as starts:
                    starts.write("started\n")
            self.policy_version = self.steps = self.tokens = self.num_running = 0
            self._logprob = 0.0
            self._asleep = False

        def generate(self, requests, *, cancelled=lambda: False):
            assert not self._asleep
            for request in requests:
                if cancelled():
                    return
                self.steps += 1
                self.tokens += len(request.token_ids)
                yield [
                    Completion(
                        key=request.key,
                        turn=request.turn,
                        token_ids=request.token_ids[::-1],
                        logprob=np.full(len(request.token_ids), self._logprob, np.float32),
                        finish_reason="stop",
                        policy_version=self.policy_version,
                    )
                ]

        def load_weights(self, policy_version, buckets):
            self._asleep = False
            ((_, weight),) = (pair for bucket in buckets for pair in bucket.tensors())
            self._logprob = float(weight)
            self.policy_version = policy_version

        def sleep(self):
            self._asleep = True

        def take_usage(self):
            return Usage(steps=self.steps)

        def close(self):
            pass

        @staticmethod
        def environment(device):
            return {"ECHO": device}

        @staticmethod
        def missing(device, *, images):
            return "it is blind" if images else ""

        @staticmethod
        def unsupported(head_size, device):
            return ""

    class OneNumber:
        policy_version = 3

        def __init__(self, **_):
            self._away = False

        def named_weights(self, dtype):
            assert not self._away
            yield "weight", torch.tensor(-0.5)

        def offload(self):
            self._away = True

        def restore(self):
            self._away = False

    return EchoEngine, OneNumber


def test_the_actors_run_it(ray_session, loop, cluster, learner_config, rollouts, monkeypatch):
    engine, learner = echo_classes()
    monkeypatch.setitem(ENGINES, "echo", engine)
    config = rollouts.config(engine="echo")
    requests = rollouts.requests(3, 2)

    async def answered():
        actors = await start_actors(
            cluster,
            config,
            replace(learner_config, num_ranks=1),
            make_engine=partial(ENGINES["echo"], "nowhere", config, max_length=96, device="cpu"),
            make_learner=learner,
        )
        try:
            await actors.pool.load_weights(await actors.learner.publish())
            await actors.pool.sleep()
            await actors.pool.load_weights(await actors.learner.publish())
            (handle,) = actors.pool.handles
            found = {c.key: c async for part in actors.pool.generate(requests) for c in part}
            return found, await handle.actor.health.remote(), await actors.pool.take_usage()
        finally:
            actors.close()

    found, health, usage = loop.run_until_complete(answered())
    assert len(found) == len(requests)
    for request in requests:
        np.testing.assert_array_equal(found[request.key].token_ids, request.token_ids[::-1])
        assert set(found[request.key].logprob) == {-0.5}
    tokens = sum(len(request.token_ids) for request in requests)
    assert (health.policy_version, health.steps, health.tokens) == (3, len(requests), tokens)
    assert usage == [Usage(steps=len(requests))]


def test_engines_and_ranks_take_turns_on_shared_gpus(
    ray_session, loop, cluster, learner_config, rollouts, monkeypatch, tmp_path
):
    engine, learner = echo_classes()
    starts = tmp_path / "starts"
    starts.touch()
    monkeypatch.setitem(ENGINES, "echo", engine)
    config = rollouts.config(engine="echo")
    requests = rollouts.requests(1, 1)

    async def answered(pool):
        return [c.logprob[0] async for part in pool.generate(requests) for c in part]

    async def died_before_the_ranks_turn(actors):
        (handle,) = actors.pool.handles
        first = await handle.actor.health.remote()
        os.kill(first.pid, signal.SIGKILL)
        await actors.learner.publish()
        await handle.revive(None)
        assert (await handle.actor.health.remote()).pid != first.pid
        assert len(starts.read_text().splitlines()) == 1, "its engine waits for the engines' turn"
        await actors.pool.load_weights(await actors.learner.publish())
        assert len(starts.read_text().splitlines()) == 2

    async def taken_in_turn():
        actors = await start_actors(
            replace(cluster, placement="shared"),
            config,
            replace(learner_config, num_ranks=1),
            make_engine=partial(ENGINES["echo"], str(starts), config, max_length=96, device="cpu"),
            make_learner=learner,
        )
        try:
            # A start leaves the engines asleep, and so does every call on the ranks.
            for _ in range(2):
                weights = await actors.learner.publish()
                with pytest.raises(AssertionError):
                    await answered(actors.pool)
                await actors.pool.load_weights(weights)
                assert await answered(actors.pool) == [-0.5]
            await actors.restart_learner()
            with pytest.raises(AssertionError):
                await answered(actors.pool)
            await actors.pool.load_weights(await actors.learner.publish())
            await died_before_the_ranks_turn(actors)
            return await answered(actors.pool)
        finally:
            actors.close()

    assert loop.run_until_complete(taken_in_turn()) == [-0.5]
