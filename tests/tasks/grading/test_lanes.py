"""How many checks run at a time, where, and who waits for whom."""

import asyncio
from types import SimpleNamespace

import pytest

from isentropic.tasks.grading.lanes import Lanes


def place(name, lanes):
    return SimpleNamespace(name=name, lanes=lanes)


def test_lanes_of_several_places_are_lent_in_turn():
    lanes = Lanes(place("here", 2))
    lanes.add([place("a", 3), place("b", 1)])
    assert lanes.count == 6

    async def take_all():
        return [(await lanes.take()).name for _ in range(6)]

    assert asyncio.run(take_all()) == ["here", "here", "a", "b", "a", "a"]


def test_who_waits_longest_gets_the_next_lane():
    here, got = place("here", 1), []
    lanes = Lanes(here)

    async def work(name):
        taken = await lanes.take()
        got.append(name)
        await asyncio.sleep(0)
        lanes.give(taken)

    async def go():
        await asyncio.gather(*(work(name) for name in "abcd"))

    asyncio.run(go())
    assert got == list("abcd")


@pytest.mark.parametrize("lent", [False, True], ids=["still waiting", "a lane was just lent to it"])
def test_one_that_gives_up_leaves_its_lane_to_the_next(lent):
    lanes = Lanes(place("here", 1))

    async def go():
        first = await lanes.take()
        waiting = asyncio.create_task(lanes.take())
        await asyncio.sleep(0)
        if lent:
            lanes.give(first)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        if not lent:
            lanes.give(first)
        async with asyncio.timeout(1):
            return (await lanes.take()).name

    assert asyncio.run(go()) == "here"


def test_a_lost_place_lends_nothing_even_what_comes_back():
    here, gone = place("here", 1), place("gone", 2)
    lanes = Lanes(here)
    lanes.add([gone])

    async def go():
        taken = [await lanes.take() for _ in range(2)]
        assert [lane.name for lane in taken] == ["here", "gone"]
        assert lanes.drop(gone) and not lanes.drop(gone)
        lanes.give(gone)
        waiting = asyncio.create_task(lanes.take())
        await asyncio.sleep(0)
        assert not waiting.done()
        lanes.give(here)
        return (await waiting).name

    assert asyncio.run(go()) == "here"
    assert lanes.count == 1


def test_lanes_outlive_the_loop_whose_waiters_were_broken_off():
    """Each call of `asyncio.run` has a loop of its own."""
    lanes = Lanes(place("here", 1))

    async def breaks_off():
        taken = await lanes.take()
        left = [asyncio.create_task(lanes.take()) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in left)
        return taken

    lanes.give(asyncio.run(breaks_off()))
    assert asyncio.run(lanes.take()).name == "here"
