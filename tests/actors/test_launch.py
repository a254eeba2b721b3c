"""A start that misses its deadline is told from one that fails, and one that waits holds up none."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

from isentropic.actors import launch
from isentropic.actors.launch import start_actors, start_explained
from isentropic.controller.protocols import LearnerLost, NotStarted, WaitError


def lost(cause):
    error = LearnerLost(str(cause))
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        pytest.param(WaitError("engine 0 is late."), NotStarted, id="an engine is late"),
        pytest.param(lost(WaitError("rank 0 is late.")), NotStarted, id="a rank is late"),
        pytest.param(lost(RuntimeError("rank 0 died")), LearnerLost, id="a rank died"),
        pytest.param(ValueError("no such model"), ValueError, id="refused"),
    ],
)
def test_only_a_missed_deadline_may_be_tried_again(error, raised):
    with pytest.raises(raised) as caught, start_explained():
        raise error
    assert type(caught.value) is raised
    assert raised is not NotStarted or "cluster.startup_timeout_s" in str(caught.value)


class FakePlaces:
    released = False

    def release(self):
        self.released = True


def start(monkeypatch, place):
    """The start of a run on a Ray that is there, whose places `place` reserves."""
    cluster = SimpleNamespace(max_restarts=0, engine_device="cpu")
    rollout = SimpleNamespace(tensor_parallel=1)
    monkeypatch.setattr(launch.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(launch, "plan", lambda *given: None)
    monkeypatch.setattr(launch, "sharing_cpus", lambda layout: layout)
    monkeypatch.setattr(launch, "check_node", lambda *given: None)
    monkeypatch.setattr(launch, "place", place)
    return start_actors(cluster, rollout, None, make_engine=None, make_learner=None)


def test_other_runs_go_on_while_one_waits_for_room(monkeypatch):
    went_on = threading.Event()

    def place(*given):
        raise WaitError("no room") if went_on.wait(5) else AssertionError("the loop stood still")

    async def both():
        waiting = asyncio.ensure_future(start(monkeypatch, place))
        await asyncio.sleep(0.01)
        went_on.set()
        await waiting

    with pytest.raises(NotStarted, match="no room"):
        asyncio.run(both())


@pytest.mark.parametrize("comes", [True, False])
def test_what_a_cancelled_start_has_reserved_goes_back(monkeypatch, comes):
    """Whether there is room in the end or not."""
    places = FakePlaces()

    def place(layout, cluster, given_up):
        assert given_up.wait(5)
        if not comes:
            raise WaitError("no room")
        return places

    async def cancelled():
        waiting = asyncio.ensure_future(start(monkeypatch, place))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await waiting

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert places.released == comes


def test_two_starts_reserve_one_after_the_other(monkeypatch):
    """Each would have its ranks, and wait for the other's engines."""
    under_way, most = [], 0

    def place(*given):
        nonlocal most
        under_way.append(1)
        most = max(most, len(under_way))
        time.sleep(0.05)  # for another to begin in
        under_way.pop()
        raise WaitError("no room")

    async def both():
        starts = [start(monkeypatch, place) for _ in range(2)]
        return await asyncio.gather(*starts, return_exceptions=True)

    assert [type(error) for error in asyncio.run(both())] == [NotStarted] * 2
    assert most == 1


def test_a_cancelled_start_waits_for_no_other(monkeypatch):
    """It has reserved nothing yet: the other one may wait for room for minutes."""
    begun, comes = threading.Event(), threading.Event()

    def place(*given):
        begun.set()
        assert comes.wait(5)
        raise WaitError("no room")

    async def both():
        other = asyncio.ensure_future(start(monkeypatch, place))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        queued = asyncio.ensure_future(start(monkeypatch, place))
        await asyncio.sleep(0.01)
        queued.cancel()
        done, _ = await asyncio.wait([queued], timeout=2)
        comes.set()
        await asyncio.wait([other])
        assert isinstance(other.exception(), NotStarted)
        return done == {queued} and queued.cancelled()

    assert asyncio.run(both())
