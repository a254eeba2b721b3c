"""The pool over any transport: who is loaded again, started again, or stops the run. Fakes, no Ray."""

import asyncio

import pytest
from ray.exceptions import RayActorError

from isentropic.actors.rollout_pool import RayRolloutPool
from isentropic.actors.transport import Loaded
from isentropic.controller.protocols import LearnerLost, WaitError
from isentropic.weights.channel import RoundBroken


class FakeHandle:
    """An engine that answers health calls with `health`, and remembers what was done to it."""

    restarts = 0
    reviving = False

    def __init__(self, name, health=None):
        self.name, self.health, self.done = name, health, []

    async def ready(self): ...

    async def answers(self):
        if self.health:
            raise self.health

    async def load(self, weights):
        self.done.append("loaded again")
        (result,) = await weights.load_into([self])
        if isinstance(result, BaseException):
            raise result

    async def revive(self, weights):
        self.done.append("started again")

    def kill(self, why):
        self.done.append("killed")


class FakeWeights:
    """Gives each engine what stands in its list, one result per load."""

    policy_version = 5

    def __init__(self, **results):
        self.results = {name: list(each) for name, each in results.items()}
        self.rounds, self.seconds, self.is_settled = [], {"send_s": 2.0}, False

    async def load_into(self, handles):
        self.rounds.append([handle.name for handle in handles])
        return [self.results[handle.name].pop(0) for handle in handles]

    def settled(self):
        self.is_settled = True


def loaded(seconds=1.0):
    return Loaded(5, {"load_s": seconds})


def load(weights, *handles):
    pool = RayRolloutPool(handles, max_num_seqs=4, timeout_s=5.0, max_restarts=9)
    return asyncio.run(pool.load_weights(weights))


def test_one_round_for_all_and_the_slowest_counts():
    weights = FakeWeights(a=[loaded(1.0)], b=[loaded(3.0)])
    assert load(weights, FakeHandle("a"), FakeHandle("b")) == {"send_s": 2.0, "load_s": 3.0}
    assert weights.rounds == [["a", "b"]]
    assert weights.is_settled


@pytest.mark.parametrize(
    ("results", "done"),
    [
        pytest.param([RoundBroken("b died"), loaded()], ["loaded again"], id="another died"),
        pytest.param([RayActorError()], ["started again"], id="died"),
        pytest.param([WaitError("late")], ["killed", "started again"], id="hangs"),
        pytest.param(
            [RoundBroken("off"), RayActorError()], ["loaded again", "started again"], id="died then"
        ),
    ],
)
def test_what_is_done_to_an_engine_whose_load_went_wrong(results, done):
    handle, other = FakeHandle("a"), FakeHandle("b")
    weights = FakeWeights(a=results, b=[loaded()])
    load(weights, handle, other)
    assert (handle.done, other.done) == (done, [])
    assert weights.is_settled


def test_an_engine_that_does_not_answer_is_left_out_of_the_round():
    handle = FakeHandle("a", health=WaitError("late"))
    weights = FakeWeights(b=[loaded()])
    load(weights, handle, FakeHandle("b"))
    assert handle.done == ["killed", "started again"]
    assert weights.rounds == [["b"]]


@pytest.mark.parametrize(
    "error", [ValueError("weight a"), RuntimeError("bug"), LearnerLost("gone")]
)
def test_what_no_restart_repairs_is_raised(error):
    """Older weights are kept then: whoever comes next may ask for them."""
    weights = FakeWeights(a=[error], b=[loaded()])
    with pytest.raises(type(error), match=str(error)):
        load(weights, FakeHandle("a"), FakeHandle("b"))
    assert not weights.is_settled


def test_a_round_that_breaks_twice_stops_the_run():
    weights = FakeWeights(a=[RoundBroken("once"), RoundBroken("twice")])
    with pytest.raises(RoundBroken, match="twice"):
        load(weights, FakeHandle("a"))


def test_a_second_draw_shares_the_last_restart_that_is_allowed():
    """It is under way for the first draw: one more would be too many, and none is asked for."""
    handle = FakeHandle("a")
    handle.restarts = 9
    pool = RayRolloutPool([handle], max_num_seqs=4, timeout_s=5.0, max_restarts=9)
    with pytest.raises(RuntimeError, match=r"cluster\.max_restarts=9"):
        asyncio.run(pool.revive(handle))
    handle.reviving = True
    asyncio.run(pool.revive(handle))
    assert handle.done == ["started again"]
