"""Two real engines behind the pool: whatever happens to them, each request is answered once, with the same tokens."""

import asyncio
import os
import signal
import time
from contextlib import aclosing, suppress

import numpy as np
import psutil
import pytest

from isentropic.actors.engine_handle import EngineHandle
from isentropic.actors.ray_runtime import worker_env
from isentropic.actors.rollout_actor import RolloutActor
from isentropic.actors.rollout_pool import RayRolloutPool
from isentropic.records import Completion

pytestmark = pytest.mark.engine

GENEROUS_S = 300.0  # for what is waited for: the machine may be busy


async def collect(pool, requests, *, while_running=None) -> list:
    found = []
    # Closed if the test fails here: the next one draws from the same pool.
    async with aclosing(pool.generate(requests)) as stream:
        async for completions in stream:
            if while_running is not None and not found:
                await while_running()
            found += completions
    return found


@pytest.fixture
def freeze(monkeypatch):
    """freeze(handle) stops its process. Its limit is short until it is found: its successor may be slow.

    If nobody finds it, it is killed at the end, so that the next test has an engine again.
    """
    frozen = []

    async def freeze(handle):
        usual_s, kill = handle._health_s, handle.kill

        def found(why):
            handle._health_s = usual_s
            kill(why)

        # A restart that is under way would be frozen with it, and no other one is made for it.
        await handle.ready()
        frozen.append(psutil.Process((await handle.actor.health.remote()).pid))
        frozen[-1].suspend()
        monkeypatch.setattr(handle, "_health_s", 5.0)
        monkeypatch.setattr(handle, "kill", found)

    yield freeze
    for process in frozen:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def assert_same(found, wanted) -> None:
    assert sorted(each.key for each in found) == sorted(wanted), (
        "each request answered exactly once"
    )
    for each in found:
        np.testing.assert_array_equal(each.token_ids, wanted[each.key].token_ids)
        np.testing.assert_allclose(each.logprob, wanted[each.key].logprob, atol=1e-4)


@pytest.fixture(scope="module")
def wanted(engine, rollouts):
    """What one engine in this process answers."""
    requests = rollouts.requests(16, 16, max_tokens=64)
    return {each.key: each for batch in engine.generate(requests) for each in batch}


@pytest.fixture(scope="module")
def loaded(actors, loop):
    """The learner's weights, as version 0 of it, in both engines."""
    weights = loop.run_until_complete(actors.learner.publish())
    loop.run_until_complete(actors.pool.load_weights(weights))
    return weights


def test_two_engines_answer_as_one(actors, loop, loaded, wanted, rollouts):
    requests = rollouts.requests(16, 16, max_tokens=64)

    async def ask():
        return await asyncio.gather(
            *(handle.actor.health.remote() for handle in actors.pool.handles)
        )

    async def collect_and_ask():
        collecting = asyncio.ensure_future(collect(actors.pool, requests))
        during = []
        while not collecting.done():
            during += await ask()
        return await collecting, during, await ask()

    found, during, after = loop.run_until_complete(collect_and_ask())
    assert_same(found, wanted)
    assert any(each.num_running > 0 for each in during), "health was answered during generation"
    assert len({each.pid for each in after}) == 2
    assert all(each.tokens > 0 for each in after), "both engines had work"


def test_two_draws_at_once_answer_as_one(actors, loop, loaded, wanted, rollouts):
    """A step's and an evaluation's; usage is told meanwhile."""
    requests = rollouts.requests(16, 16, max_tokens=64)
    halves = requests[::2], requests[1::2]

    async def collect_both():
        return await asyncio.gather(
            *(collect(actors.pool, half, while_running=actors.pool.take_usage) for half in halves)
        )

    for found, half in zip(loop.run_until_complete(collect_both()), halves, strict=True):
        assert_same(found, {request.key: wanted[request.key] for request in half})
    assert [handle.outstanding for handle in actors.pool.handles] == [0, 0]


def test_killed_in_mid_generation(actors, loop, loaded, wanted, rollouts):
    """The other engine answers for it; it is back, with the current weights, when it is next asked."""
    victim = actors.pool.handles[0]
    restarts = victim.restarts

    async def kill():
        os.kill((await victim.actor.health.remote()).pid, signal.SIGKILL)

    requests = rollouts.requests(16, 16, max_tokens=64)
    assert_same(loop.run_until_complete(collect(actors.pool, requests, while_running=kill)), wanted)
    loop.run_until_complete(victim.ready())
    assert_same(loop.run_until_complete(collect(actors.pool, requests)), wanted)
    assert victim.restarts == restarts + 1


def test_both_frozen_in_mid_generation(actors, loop, loaded, wanted, rollouts, freeze):
    """No engine is left: the requests wait for the restarts, which hold the current weights before any work."""
    restarts = actors.pool.restarts

    async def freeze_both():
        for handle in actors.pool.handles:
            await freeze(handle)

    requests = rollouts.requests(16, 16, max_tokens=64)
    assert_same(
        loop.run_until_complete(collect(actors.pool, requests, while_running=freeze_both)), wanted
    )
    assert actors.pool.restarts == restarts + 2


def test_frozen_while_idle(actors, loop, loaded, wanted, rollouts, freeze):
    """Nobody generates, so nobody watches: the next load of weights finds it."""
    handle = actors.pool.handles[0]

    async def load():
        await freeze(handle)
        restarts = handle.restarts
        await actors.pool.load_weights(loaded)
        return handle.restarts - restarts

    assert loop.run_until_complete(load()) == 1
    assert_same(
        loop.run_until_complete(collect(actors.pool, rollouts.requests(16, 16, max_tokens=64))),
        wanted,
    )


async def until_idle(pool):
    async with asyncio.timeout(GENEROUS_S):
        for handle in pool.handles:
            while (await handle.actor.health.remote()).num_running:
                await asyncio.sleep(0.1)


def test_a_caller_that_leaves_lets_the_engines_end(actors, loop, loaded, rollouts):
    async def leave():
        stream = actors.pool.generate(rollouts.requests(64, 16, max_tokens=64))
        await anext(stream)
        await stream.aclose()
        await until_idle(actors.pool)

    loop.run_until_complete(leave())
    assert loop.run_until_complete(collect(actors.pool, rollouts.requests(1, 1))), (
        "and are of use again"
    )


def endless_engine():
    """Answers one request and then only computes, until it is cancelled: made in a function, so that it travels
    to the actor by value."""

    class Engine:
        policy_version = steps = tokens = num_running = 0

        def generate(self, requests, *, cancelled):
            self.num_running = len(requests)
            yield [
                Completion(
                    key=requests[0].key,
                    turn=0,
                    token_ids=np.array([1]),
                    logprob=np.zeros(1, np.float32),
                    finish_reason="length",
                    policy_version=0,
                )
            ]
            while not cancelled():
                time.sleep(0.01)
            self.num_running = 0

    return Engine


def test_a_caller_that_leaves_stops_the_engines(ray_session, loop, rollouts):
    env = {"env_vars": worker_env(1)}
    actor = RolloutActor.options(runtime_env=env).remote(endless_engine(), False)
    handle = EngineHandle(actor, 0, startup_s=GENEROUS_S, health_s=GENEROUS_S)
    pool = RayRolloutPool([handle], max_num_seqs=4, timeout_s=GENEROUS_S, max_restarts=0)

    async def leave():
        stream = pool.generate(rollouts.requests(1, 4))
        assert len(await anext(stream)) == 1
        assert (await actor.health.remote()).num_running == 4
        await stream.aclose()
        await until_idle(pool)

    try:
        loop.run_until_complete(leave())
    finally:
        pool.close()


def test_a_bad_request_says_so(actors, loop, loaded, rollouts):
    with pytest.raises(ValueError, match="exceed the window of 96"):
        loop.run_until_complete(collect(actors.pool, rollouts.requests(1, 1, max_tokens=96)))


def test_weights_of_the_learner_reach_the_engines(actors, loop, rollouts):
    weights = loop.run_until_complete(actors.learner.publish())
    loop.run_until_complete(actors.pool.load_weights(weights))
    found = loop.run_until_complete(collect(actors.pool, rollouts.requests(2, 2)))
    assert {each.policy_version for each in found} == {weights.policy_version}
