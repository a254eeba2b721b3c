"""Actors that a lane cannot bring back to the start are ended: the next run gets new ones."""

import asyncio
import errno
from types import SimpleNamespace

import pytest

from isentropic.controller.protocols import LearnerLost
from isentropic.experiments.sweep import lane as lane_module
from isentropic.experiments.sweep.lane import Lane

CONFIG = SimpleNamespace(
    cluster=None, rollout=None, learner=None, weights=SimpleNamespace(transport="objects")
)


class Learner:
    """Fails as `broken` says, in the call of that name."""

    def __init__(self, broken):
        self.broken = dict(broken)
        self.saved = False

    def _call(self, name):
        if name in self.broken:
            raise self.broken[name]

    async def configure(self):
        self._call("configure")

    async def load(self, folder):
        self._call("load")
        assert self.saved and folder.is_dir()

    async def save(self, folder):
        self._call("save")
        self.saved = True


class FakeActors:
    pool = None

    def __init__(self, broken):
        self.learner, self.closed, self.refuses = Learner(broken), False, False

    def close(self):
        self.closed = True
        if self.refuses:
            raise RuntimeError("the group is gone")


@pytest.fixture
def started(monkeypatch):
    """The actors that were started, and what the next ones will fail in."""
    started = SimpleNamespace(actors=[], broken={})

    async def start_actors(*given, **named):
        started.actors.append(FakeActors(started.broken))
        return started.actors[-1]

    monkeypatch.setattr(lane_module, "start_actors", start_actors)
    monkeypatch.setattr(lane_module, "reuse_key", lambda config, model: "the same")
    monkeypatch.setattr(lane_module, "settings_of", lambda config: {})
    for name in ("make_engine", "make_learner"):
        monkeypatch.setattr(lane_module, name, lambda config, prepared: None)
    return started


async def lent(lane):
    async with lane.lend(CONFIG, SimpleNamespace(model=None)) as actors:
        return actors.learner


@pytest.mark.parametrize("call", ["configure", "load"])
def test_a_rank_that_dies_between_two_runs_costs_one_attempt(tmp_path, started, call):
    lane = Lane(tmp_path / "0")

    async def runs():
        await lent(lane)
        started.actors[0].learner.broken[call] = LearnerLost("rank 1 is gone")
        with pytest.raises(LearnerLost):
            await lent(lane)
        return [await lent(lane) for _ in range(2)]

    assert asyncio.run(runs()) == [started.actors[1].learner] * 2
    assert started.actors[0].closed and not started.actors[1].closed
    assert lane.starts == 2


def test_actors_whose_start_could_not_be_saved_are_not_used(tmp_path, started):
    lane = Lane(tmp_path / "0")

    async def runs():
        started.broken["save"] = OSError(errno.ENOSPC, "No space left on device")
        with pytest.raises(OSError, match="No space left"):
            await lent(lane)
        started.broken.clear()  # there is room again
        return await lent(lane)

    assert asyncio.run(runs()) is started.actors[1].learner
    assert started.actors[0].closed


def test_actors_that_cannot_be_closed_are_not_used_again(tmp_path, started):
    lane = Lane(tmp_path / "0")

    async def runs():
        await lent(lane)
        started.actors[0].refuses = True
        started.actors[0].learner.broken["load"] = LearnerLost("rank 1 is gone")
        with pytest.raises(RuntimeError, match="the group is gone"):
            await lent(lane)
        return await lent(lane)

    assert asyncio.run(runs()) is started.actors[1].learner
