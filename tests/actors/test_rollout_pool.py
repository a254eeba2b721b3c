"""Two real engines behind the pool: whatever happens to them, each request is answered once, with the same tokens."""

import asyncio
import os
import signal

import numpy as np
import pytest

pytestmark = pytest.mark.engine


async def collect(pool, requests, *, while_running=None) -> list:
    found = []
    stream = pool.generate(requests)
    async for completions in stream:
        if while_running is not None and not found:
            await while_running()
        found += completions
    return found


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


def test_both_frozen_in_mid_generation(actors, loop, loaded, wanted, rollouts, monkeypatch):
    """No engine is left: the requests wait for the restarts, which hold the current weights before any work."""
    restarts = actors.pool.restarts

    async def freeze():
        for handle in actors.pool.handles:
            monkeypatch.setattr(handle, "_health_s", 5.0)
            os.kill((await handle.actor.health.remote()).pid, signal.SIGSTOP)

    requests = rollouts.requests(16, 16, max_tokens=64)
    assert_same(
        loop.run_until_complete(collect(actors.pool, requests, while_running=freeze)), wanted
    )
    assert actors.pool.restarts == restarts + 2


def test_frozen_while_idle(actors, loop, loaded, wanted, rollouts, monkeypatch):
    """Nobody generates, so nobody watches: the next load of weights finds it."""
    handle = actors.pool.handles[0]
    restarts = handle.restarts

    async def load():
        monkeypatch.setattr(handle, "_health_s", 5.0)
        os.kill((await handle.actor.health.remote()).pid, signal.SIGSTOP)
        await actors.pool.load_weights(loaded)

    loop.run_until_complete(load())
    assert handle.restarts == restarts + 1
    assert_same(
        loop.run_until_complete(collect(actors.pool, rollouts.requests(16, 16, max_tokens=64))),
        wanted,
    )


def test_a_caller_that_leaves_stops_the_engines(actors, loop, loaded, rollouts):
    async def leave():
        stream = actors.pool.generate(rollouts.requests(64, 16, max_tokens=64))
        await anext(stream)
        await stream.aclose()
        for _ in range(50):
            health = await asyncio.gather(
                *(handle.actor.health.remote() for handle in actors.pool.handles)
            )
            if not any(each.num_running for each in health):
                return True
            await asyncio.sleep(0.1)
        return False

    assert loop.run_until_complete(leave())
    assert loop.run_until_complete(collect(actors.pool, rollouts.requests(1, 1))), (
        "and are of use again"
    )


def test_a_bad_request_says_so(actors, loop, loaded, rollouts):
    with pytest.raises(ValueError, match="exceed the window of 96"):
        loop.run_until_complete(collect(actors.pool, rollouts.requests(1, 1, max_tokens=96)))


def test_weights_of_the_learner_reach_the_engines(actors, loop, rollouts):
    weights = loop.run_until_complete(actors.learner.publish())
    loop.run_until_complete(actors.pool.load_weights(weights))
    found = loop.run_until_complete(collect(actors.pool, rollouts.requests(2, 2)))
    assert {each.policy_version for each in found} == {weights.policy_version}
