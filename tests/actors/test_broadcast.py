"""Two real ranks, two real engines, and weights by broadcast: same bits, whatever dies.

Over gloo, and lent in memory that both sides map, as where they share devices.
"""

import asyncio
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from isentropic.actors.engine_handle import EngineHandle
from isentropic.actors.learner_actor import LearnerActor
from isentropic.actors.learner_group import RayLearnerGroup
from isentropic.actors.ray_runtime import worker_env
from isentropic.actors.rollout_actor import RolloutActor
from isentropic.actors.rollout_pool import RayRolloutPool
from isentropic.actors.transport.broadcast import Route
from isentropic.controller.protocols import LearnerLost

pytestmark = pytest.mark.engine

GENEROUS_S = 300.0  # for what is waited for: the machine may be busy


def inside():
    """Functions that run in the actors; made in a function, so that they travel by value."""

    def parameters(worker):
        model = worker.model_runner.get_model()
        return {name: value.detach().numpy().copy() for name, value in model.named_parameters()}

    def wipe(worker):
        for value in worker.model_runner.get_model().parameters():
            value.data.zero_()

    def live(actor):
        return actor._engine.llm.collective_rpc(parameters)[0]

    def wipe_all(actor):
        actor._engine.llm.collective_rpc(wipe)

    def gathered(actor):
        weights = actor._learner.named_weights()
        return {name: value.cpu().numpy().copy() for name, value in weights}

    def small_parcels(actor, gate):
        """Many parcels; with a gate, the last tensors are gathered when its file is there."""
        import os
        import time
        from functools import partial

        from isentropic.actors import learner_actor
        from isentropic.weights.parcels import lay_out

        learner = actor._learner
        learner_actor.lay_out = partial(lay_out, limit=1 << 14)

        def named_weights(dtype):
            for index, pair in enumerate(type(learner).named_weights(learner, dtype)):
                while gate and index > 10 and not os.path.exists(gate):
                    time.sleep(0.01)
                yield pair

        learner.named_weights = named_weights

    def usual_parcels(actor):
        from isentropic.actors import learner_actor
        from isentropic.weights.parcels import lay_out

        del actor._learner.named_weights
        learner_actor.lay_out = lay_out

    def flip(actor, serial):
        """In what was gathered, or will be until `unflip`."""
        from isentropic.weights import lending, parcels

        for parcel in actor._outbox._posts[serial].parcels[:1]:
            parcel.flat[5] ^= 1

        def damaged(*arguments):
            for parcel in parcels.fill_parcels(*arguments):
                parcel.flat[5] ^= 1
                yield parcel

        lending.fill_parcels = damaged

    def unflip(actor):
        from isentropic.weights import lending, parcels

        lending.fill_parcels = parcels.fill_parcels

    def step(actor):
        """Other weights, and a newer version."""
        import torch

        with torch.no_grad():
            for parameter in actor._learner._model.parameters():
                parameter.mul_(1.01)
        actor._learner.policy_version += 1

    def lent(actor):
        """What the process still has of memory that was lent."""
        import os

        links = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]
        names = [os.readlink(link) for link in links if os.path.islink(link)]
        with open("/proc/self/maps") as maps:
            return [each for each in [*names, *maps] if "memfd:isentropic-weights" in each]

    return SimpleNamespace(**locals())


async def call(actor, function, *arguments):
    return await asyncio.wrap_future(actor.__ray_call__.remote(function, *arguments).future())


def merged(weights):
    """vLLM's parameters from those of the learner's Qwen3: q, k, v in one, gate and up in one."""
    found = {}
    for name, value in weights.items():
        parent, _, leaf = name.removesuffix(".weight").rpartition(".")
        joined = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv"}
        joined |= {"gate_proj": "gate_up", "up_proj": "gate_up"}
        key = f"{parent}.{joined[leaf]}_proj.weight" if leaf in joined else name
        found.setdefault(key, []).append(value)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def route_of(ranks, backend):
    senders = len(ranks) if backend == "ipc" else 1
    return Route(ranks[0], backend=backend, processes=1, senders=senders)


both_ways = pytest.mark.parametrize("backend", ["gloo", "ipc"])


@pytest.fixture
def ranks(actors, backend):
    """The session's ranks, publishing by broadcast."""
    ranks = actors.learner._actors
    route = route_of(ranks, backend)
    return RayLearnerGroup(ranks, dtype="float32", timeout_s=GENEROUS_S, route=route)


async def assert_engines_have(pool, ranks):
    run = inside()
    weights, _ = await asyncio.gather(*(call(actor, run.gathered) for actor in ranks._actors))
    for handle in pool.handles:
        live = await call(handle.actor, run.live)
        for name, value in merged(weights).items():
            # vLLM fills 112 rows of the vocabulary up to 128.
            np.testing.assert_array_equal(live[name][: len(value)], value, err_msg=name)
        assert live.keys() <= merged(weights).keys()


@both_ways
def test_engines_have_the_learners_weights_to_the_bit(actors, loop, ranks, rollouts):
    """Twice: over gloo the second round goes through the group of the first."""
    run = inside()

    async def sync():
        for _ in range(2):
            for handle in actors.pool.handles:
                await call(handle.actor, run.wipe_all)
            weights = await ranks.publish()
            seconds = await actors.pool.load_weights(weights)
            await assert_engines_have(actors.pool, ranks)
        found = [c async for part in actors.pool.generate(rollouts.requests(2, 2)) for c in part]
        return weights, seconds, found

    weights, seconds, found = loop.run_until_complete(sync())
    assert seconds.keys() == {"gather_s", "send_s", "load_s", "check_s"}
    assert {each.policy_version for each in found} == {weights.policy_version}


@pytest.mark.parametrize("backend", ["ipc"])
def test_versions_over_three_syncs_of_one_engine_and_two_ranks(actors, loop, ranks, rollouts):
    """One rank lends to nobody, and gathers along. Nothing of what was lent stays in any process."""
    run = inside()
    pool = RayRolloutPool(
        actors.pool.handles[:1], max_num_seqs=4, timeout_s=GENEROUS_S, max_restarts=0
    )

    async def syncs():
        await ranks.remember()
        versions = []
        for _ in range(3):
            await asyncio.gather(*(call(actor, run.step) for actor in ranks._actors))
            weights = await ranks.publish()
            await pool.load_weights(weights)
            await assert_engines_have(pool, ranks)
            drawn = [c async for part in pool.generate(rollouts.requests(1, 2)) for c in part]
            versions.append((weights.policy_version, *{each.policy_version for each in drawn}))
        everyone = [*ranks._actors, pool.handles[0].actor]
        left = await asyncio.gather(*(call(actor, run.lent) for actor in everyone))
        await ranks.recall()
        await actors.pool.load_weights(await ranks.publish())
        return versions, left

    versions, left = loop.run_until_complete(syncs())
    first = versions[0][0]
    assert versions == [(first + n, first + n) for n in range(3)]
    assert left == [[], [], []]


@both_ways
def test_a_changed_bit_is_refused_by_name(actors, loop, ranks, rollouts):
    """The engines answer nobody until they are loaded again."""

    async def sync():
        weights = await ranks.publish()
        await ranks._gathered()
        await call(ranks._actors[0], inside().flip, weights.serial)
        with pytest.raises(ValueError, match=r"embed_tokens.* has other bytes than were published"):
            await actors.pool.load_weights(weights)
        await call(ranks._actors[0], inside().unflip)
        health = [await handle.actor.health.remote() for handle in actors.pool.handles]
        assert {each.policy_version for each in health} == {-1}
        await actors.pool.load_weights(await ranks.publish())
        await assert_engines_have(actors.pool, ranks)

    loop.run_until_complete(sync())


@both_ways
def test_an_engine_killed_in_the_middle(actors, loop, ranks, tmp_path):
    """The round is off; the other engine is loaded again, and the dead one comes back with the weights."""
    run, gate = inside(), tmp_path / "gate"
    victim, other = actors.pool.handles
    restarts = victim.restarts

    async def sync():
        for actor in ranks._actors:
            await call(actor, run.small_parcels, str(gate))
        for handle in actors.pool.handles:
            await call(handle.actor, run.wipe_all)
        loading = asyncio.ensure_future(actors.pool.load_weights(await ranks.publish()))
        while (await other.actor.health.remote()).policy_version != -1:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # both are through with the first parcels
        assert not loading.done()
        os.kill((await victim.actor.health.remote()).pid, signal.SIGKILL)
        await asyncio.sleep(0.3)
        gate.touch()
        await loading
        for actor in ranks._actors:
            await call(actor, run.usual_parcels)
        await assert_engines_have(actors.pool, ranks)

    loop.run_until_complete(sync())
    assert victim.restarts == restarts + 1


def fakes():
    class Rank:
        """Rank 1 dies while it gathers; rank 0 then loses its peer."""

        policy_version = 3

        def __init__(self, *, rank, world_size, init_method):
            self._rank = rank

        def weight_shapes(self):
            return {"a": (2,), "b": (2,)}

        def named_weights(self, dtype):
            import torch

            yield "a", torch.ones(2)
            if self._rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("Connection closed by peer")

    class Engine:
        policy_version = steps = tokens = num_running = 0

        def receive_weights(self, meeting, first_rank):
            import torch

            from isentropic.weights.inbox import Inbox

            inbox = Inbox(torch.device("cpu"))
            inbox.begin(meeting, first_rank)
            for index in range(len(inbox.layout.parcels)):
                inbox.take(index, list)
            return inbox.seconds

    return Rank, Engine


@both_ways
def test_a_rank_killed_in_the_middle_is_named(ray_session, loop, backend):
    """No engine is started again for it: a new group of ranks will publish from the checkpoint."""
    rank, engine = fakes()
    options = {"runtime_env": {"env_vars": worker_env(1)}}
    ranks = [LearnerActor.options(**options).remote(rank, 2) for _ in range(2)]
    actor = RolloutActor.options(max_restarts=-1, **options).remote(engine, False)
    handle = EngineHandle(actor, 0, startup_s=GENEROUS_S, health_s=GENEROUS_S)
    pool = RayRolloutPool([handle], max_num_seqs=4, timeout_s=GENEROUS_S, max_restarts=4)
    route = route_of(ranks, backend)
    group = RayLearnerGroup(ranks, dtype="float32", timeout_s=GENEROUS_S, route=route)

    async def sync():
        await group.setup(GENEROUS_S)
        await pool.load_weights(await group.publish())

    try:
        with pytest.raises(LearnerLost, match=r"^learner rank 1 died \(gathering weights\)"):
            loop.run_until_complete(sync())
        assert handle.restarts == 0
        with pytest.raises(LearnerLost, match="learner rank 1 died"):
            loop.run_until_complete(group.remember())
    finally:
        pool.close()
        group.close()
