"""One GPU for engines and ranks: the real loop on a device of so many bytes, which refuses one too many."""

import asyncio
from dataclasses import dataclass, field

import pytest

from isentropic.controller.feed import Feed
from isentropic.controller.protocols import LearnerLost
from isentropic.controller.storage.checkpoints import latest
from isentropic.rollout.gpu_memory import GpuMemory
from isentropic.shared_gpu.turns import start_in_turn, taking_turns

GPU, HOST = 100, 60
WEIGHTS, CACHE = 20, 40  # of an engine
STATE, ACTIVATIONS = 50, 45  # of a rank: with either part of an engine it is too much


@dataclass
class Memory:
    """Parts by name; more than `size` in all raises."""

    size: int
    parts: dict[str, int] = field(default_factory=dict)

    def take(self, name, amount):
        assert name not in self.parts, f"{name} is there already"
        if sum(self.parts.values()) + amount > self.size:
            raise MemoryError(f"{amount} for {name} beside {self.parts}, of {self.size}")
        self.parts[name] = amount

    def free(self, *names):
        for name in names:
            self.parts.pop(name, None)


class Machine:
    def __init__(self):
        self.gpu, self.host = Memory(GPU), Memory(HOST)


class FakeLLM:
    """What `GpuMemory` asks of vLLM, with vLLM's levels and tags."""

    def __init__(self, machine):
        self.gpu, self.host = machine.gpu, machine.host
        if self.gpu.parts:  # vLLM looks for free memory before it takes any
            raise MemoryError(f"an engine finds {self.gpu.parts} on its GPU")
        self.wake_up(["weights", "kv_cache"])

    def sleep(self, level):
        if level == 1:
            self.host.take("weights of a sleeping engine", WEIGHTS)
        self.gpu.free("weights", "kv_cache")

    def wake_up(self, tags):
        for tag in tags:
            self.gpu.take(tag, {"weights": WEIGHTS, "kv_cache": CACHE}[tag])


@pytest.fixture
def sides(fakes):
    """(pool, ranks) of a machine, not started."""

    class Pool(fakes["pool"]):
        async def start(self):
            await asyncio.sleep(0)
            self.llm = FakeLLM(self.machine)
            self.memory = GpuMemory(self.llm, shared=True)

        async def load_weights(self, weights):
            with self.memory.taken_back():
                assert "weights" in self.machine.gpu.parts
                return await super().load_weights(weights)

        async def generate(self, requests):
            async for part in super().generate(requests):
                assert {"weights", "kv_cache"} <= set(self.machine.gpu.parts)
                yield part

        async def sleep(self):
            self.memory.give_up()

    class Ranks(fakes["learner"]):
        lost_in = None  # the call of `update` in which a rank dies
        updated = 0

        async def setup(self):
            self.machine.gpu.take("state", STATE)

        async def offload(self):
            self.machine.host.take("state", STATE)
            self.machine.gpu.free("state", "activations")

        async def restore(self):
            self.machine.gpu.take("state", STATE)
            self.machine.host.free("state")

        def work(self):
            assert "state" in self.machine.gpu.parts
            if "activations" not in self.machine.gpu.parts:  # the allocator keeps them
                self.machine.gpu.take("activations", ACTIVATIONS)

        async def score(self, batches, *, reference):
            self.work()
            return await super().score(batches, reference=reference)

        async def update(self, batches):
            self.work()
            self.updated += 1
            if self.updated == self.lost_in:
                raise LearnerLost("rank 0 died")
            return await super().update(batches)

        async def publish(self):
            assert "state" in self.machine.gpu.parts
            return await super().publish()

        async def begin_save(self, folder):
            assert "state" in self.machine.gpu.parts
            await super().begin_save(folder)

    def make():
        pool, ranks = Pool(), Ranks()
        pool.machine = ranks.machine = Machine()
        return pool, ranks

    return make


async def drive(run, pool, ranks):
    """As a run with `cluster.placement=shared` is started and driven."""
    await start_in_turn(pool.start(), pool, ranks.setup)
    run.pool, run.learner = taking_turns(pool, ranks)
    await run.controller().run()


SHARED = ["cluster.placement=shared", "run.steps=3"]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_three_steps_with_evaluations_fit_and_give_the_same_numbers(every, fake_run, sides):
    evaluated = [f"evaluation.every={every}", "run.steps=3"]
    run = fake_run("cluster.placement=shared", *evaluated)
    apart = fake_run(*evaluated, folder="apart").run()

    asyncio.run(drive(run, *sides()))

    assert run.stable == apart.stable
    assert sorted(run.lines.lines) == [0, 1, 2, 3]
    assert all("eval/avg_at_k" in run.lines.lines[step] for step in (0, 3))


def started_at_once(monkeypatch, pool, ranks):
    async def start():
        await ranks.setup()
        await type(pool).start(pool)

    pool.start = start


def nobody_offloads(monkeypatch, pool, ranks):
    async def stay(): ...

    ranks.offload = ranks.restore = stay


def the_allocator_keeps_its_peak(monkeypatch, pool, ranks):
    async def leave():
        ranks.machine.host.take("state", STATE)
        ranks.machine.gpu.free("state")

    ranks.offload = leave


def sleep_at_level_one(monkeypatch, pool, ranks):
    sleep = FakeLLM.sleep
    monkeypatch.setattr(FakeLLM, "sleep", lambda llm, level: sleep(llm, level=1))


def step_one_is_drawn_while_the_start_is_scored(monkeypatch, pool, ranks):
    """With a state so small that it fits beside the engine; the activations do not."""

    async def at_once(feed, step): ...

    monkeypatch.setattr(Feed, "_learner_is_done", at_once)
    monkeypatch.setitem(globals(), "taking_turns", lambda *sides: sides)
    monkeypatch.setitem(globals(), "STATE", 20)


@pytest.mark.parametrize(
    ("fault", "loads", "lines", "message"),  # loads that were begun, lines that were written
    [
        pytest.param(started_at_once, 0, 0, "an engine finds {'state'", id="start: all at once"),
        pytest.param(nobody_offloads, 1, 0, "for kv_cache beside {'state'", id="first wake"),
        pytest.param(
            the_allocator_keeps_its_peak, 2, 1, "for kv_cache beside {'activations'", id="reserved"
        ),
        pytest.param(sleep_at_level_one, 0, 0, "beside {'weights of a", id="level 1"),
        pytest.param(
            step_one_is_drawn_while_the_start_is_scored, 1, 0, "for activations beside", id="step 0"
        ),
    ],
)
def test_without_it_the_run_ends(fault, loads, lines, message, fake_run, sides, monkeypatch):
    run = fake_run(*SHARED)
    pool, ranks = sides()
    fault(monkeypatch, pool, ranks)

    with pytest.raises((MemoryError, AssertionError), match=message):
        asyncio.run(drive(run, pool, ranks))

    assert (len(pool.loads), len(run.lines.lines)) == (loads, lines)


def test_lost_ranks_come_back_while_the_engines_sleep(fake_run, sides):
    overrides = [*SHARED, "checkpoint.every=1"]
    whole = fake_run(*overrides, folder="whole")
    asyncio.run(drive(whole, *sides()))
    run, (pool, ranks), (_, fresh) = fake_run(*overrides), sides(), sides()
    ranks.lost_in, fresh.machine = 3, pool.machine

    async def lost_and_restarted():
        with pytest.raises(LearnerLost):
            await drive(run, pool, ranks)
        pool.machine.gpu.free("state", "activations")  # their processes are gone
        pool.machine.host.free("state")
        await pool.sleep()
        await fresh.setup()
        run.pool, run.learner = taking_turns(pool, fresh)
        await run.controller().run(latest(run.folder / "checkpoints", print))

    asyncio.run(lost_and_restarted())

    assert run.stable == whole.stable
