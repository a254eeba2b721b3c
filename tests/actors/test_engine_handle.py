"""What comes back is watched: a frozen process is started once more, a slow one is waited for."""

import asyncio
import os
import signal
import time

import pytest

from isentropic.actors.engine_handle import EngineHandle
from isentropic.actors.ray_runtime import worker_env
from isentropic.actors.rollout_actor import RolloutActor
from isentropic.actors.rollout_pool import RayRolloutPool
from isentropic.actors.transport.objects import PublishedWeights

pytestmark = pytest.mark.engine

GENEROUS_S = 300.0
WEIGHTS = PublishedWeights(policy_version=3, refs=(), seconds={})


def pool_of(make_engine):
    """A pool of one actor, which Ray starts again as often as it dies."""
    options = {"runtime_env": {"env_vars": worker_env(1)}, "max_restarts": -1}
    actor = RolloutActor.options(**options).remote(make_engine, False)
    handle = EngineHandle(actor, 0, startup_s=GENEROUS_S, health_s=GENEROUS_S)
    return RayRolloutPool([handle], max_num_seqs=4, timeout_s=GENEROUS_S, max_restarts=1)


def freezing_engine(starts):
    """Freezes when it is first asked for its health (second process) and when it loads (third).

    Made in a function, so that it travels to the actor by value.
    """

    def freeze():
        os.kill(os.getpid(), signal.SIGSTOP)
        # The signal may reach this thread last: it must not answer before.
        time.sleep(GENEROUS_S)

    class Engine:
        steps = tokens = num_running = 0

        def __init__(self):
            with open(starts, "a") as file:
                file.write(f"{os.getpid()}\n")
            with open(starts) as file:
                self._start = len(file.readlines())
            self._version = -1

        @property
        def policy_version(self):
            if self._start == 2:
                freeze()
            return self._version

        def load_weights(self, policy_version, buckets):
            if self._start == 3:
                freeze()
            self._version = policy_version

    return Engine


def test_frozen_while_it_comes_back(ray_session, loop, tmp_path):
    starts = tmp_path / "starts"
    pool = pool_of(freezing_engine(str(starts)))
    (handle,) = pool.handles

    async def freeze_twice():
        await pool.load_weights(WEIGHTS)
        os.kill((await handle.actor.health.remote()).pid, signal.SIGKILL)
        handle._health_s = 3.0
        await pool.load_weights(WEIGHTS)
        return await handle.actor.health.remote()

    try:
        health = loop.run_until_complete(freeze_twice())
    finally:
        pool.close()
    pids = [int(line) for line in starts.read_text().splitlines()]
    # More if this machine is too busy to answer within the short limit.
    assert len(pids) >= 4 and health.pid == pids[-1] and health.policy_version == 3
    assert handle.restarts == len(pids) - 1


def slow_engine(starts, seconds):
    """Needs that long for its second start."""

    class Engine:
        steps = tokens = num_running = policy_version = 0

        def __init__(self):
            with open(starts, "a") as file:
                file.write(f"{os.getpid()}\n")
            with open(starts) as file:
                if len(file.readlines()) == 2:
                    time.sleep(seconds)

        def load_weights(self, policy_version, buckets):
            self.policy_version = policy_version

    return Engine


def test_a_slow_start_is_no_hang(ray_session, loop, tmp_path):
    """It died with nothing to do, so the next load of weights finds it in the middle of its start."""
    starts = tmp_path / "starts"
    pool = pool_of(slow_engine(str(starts), 8.0))
    (handle,) = pool.handles

    async def die_idle():
        await pool.load_weights(WEIGHTS)
        os.kill((await handle.actor.health.remote()).pid, signal.SIGKILL)
        while len(starts.read_text().splitlines()) < 2:
            await asyncio.sleep(0.1)
        handle._health_s = 1.0
        loading = asyncio.ensure_future(pool.load_weights(WEIGHTS))
        await asyncio.sleep(4.0)
        # What comes after the start may take as long as this machine needs.
        handle._health_s = GENEROUS_S
        await loading
        return await handle.actor.health.remote()

    try:
        health = loop.run_until_complete(die_idle())
    finally:
        pool.close()
    assert len(starts.read_text().splitlines()) == 2 and health.policy_version == 3
    assert handle.restarts == 1
