"""Two draws on the same engine: they share its room, and neither loses or doubles an answer."""

import asyncio
from collections import Counter
from types import SimpleNamespace

import numpy as np

from isentropic.actors.dispatch import Dispatch
from isentropic.actors.engine_handle import EngineHandle
from isentropic.actors.rollout_actor import pack
from isentropic.records import Completion, Request, RolloutKey

ROOM = 8


class Actor:
    """Answers a request when the test says so."""

    def __init__(self):
        self.running = []  # (request, the answers of its call)
        self.cancelled = []
        self.generate = SimpleNamespace(remote=self._generate)
        self.cancel = SimpleNamespace(remote=self.cancelled.append)

    async def _generate(self, call, policy_version, requests):
        index_of = {(request.key, request.turn): i for i, request in enumerate(requests)}
        answers = asyncio.Queue()
        self.running += [(request, answers) for request in requests]
        for _ in requests:
            answer = asyncio.get_running_loop().create_future()
            answer.set_result(pack([await answers.get()], index_of))
            yield answer

    @property
    def splits(self):
        return Counter(request.key.split for request, _ in self.running)

    async def finish(self, split, count):
        """Answers the oldest of a split."""
        for _ in range(count):
            index = next(i for i, (each, _) in enumerate(self.running) if each.key.split == split)
            request, answers = self.running.pop(index)
            answers.put_nowait(
                Completion(
                    key=request.key,
                    turn=0,
                    token_ids=np.array([1]),
                    logprob=np.zeros(1, dtype=np.float32),
                    finish_reason="stop",
                    policy_version=0,
                )
            )
        await settle()


async def settle():
    for _ in range(50):
        await asyncio.sleep(0)


def begin(split, *handles, room=ROOM, prompts=ROOM):
    """Draws one sample of each prompt: a task for its answers."""
    requests = [
        Request(
            key=RolloutKey(split, draw, 0, 0), turn=0, token_ids=np.array([1]), max_tokens=4,
            temperature=1.0, seed=draw,
        )
        for draw in range(prompts)
    ]  # fmt: skip
    draw = Dispatch(
        handles, requests, policy_version=0, room=room, timeout_s=60.0, revive=handles[0].revive
    )

    async def collect():
        try:
            return [each.key async for batch in draw.run() for each in batch]
        finally:
            await draw.stop()

    return asyncio.create_task(collect())


def made(index=0):
    actor = Actor()
    return actor, EngineHandle(actor, index, startup_s=60.0, health_s=600.0)


def test_what_one_draw_leaves_free_is_the_others_at_once():
    """The engine has room for eight; of the second draw it takes one prompt, the least."""

    async def go():
        actor, handle = made()
        evaluation = begin("eval", handle)
        await settle()
        step = begin("train", handle)
        await settle()
        seen = [actor.splits]
        await actor.finish("eval", 4)
        seen.append(actor.splits)
        await actor.finish("eval", 4)
        seen.append(actor.splits)
        await actor.finish("train", ROOM)
        return seen, await evaluation, await step, handle

    seen, evaluated, drawn, handle = asyncio.run(go())
    assert seen == [{"eval": 8, "train": 1}, {"eval": 4, "train": 4}, {"train": 8}]
    assert sorted(key.draw for key in evaluated) == sorted(key.draw for key in drawn)
    assert {key.split for key in evaluated} == {"eval"} and len(drawn) == ROOM
    assert handle.outstanding == 0 and not handle.waiting


def test_a_draw_that_is_broken_off_leaves_the_other_its_count():
    async def go():
        actor, handle = made()
        evaluation = begin("eval", handle)
        await settle()
        step = begin("train", handle)
        await settle()
        evaluation.cancel()
        await asyncio.gather(evaluation, return_exceptions=True)
        await settle()
        after = handle.outstanding, actor.splits["train"], len(actor.cancelled)
        await actor.finish("train", ROOM)
        return after, await step, handle.outstanding

    after, drawn, left = asyncio.run(go())
    assert after == (8, 8, 1)  # one call was taken back; its room is the other draw's
    assert len(drawn) == ROOM and left == 0


def test_each_engine_has_its_share_though_one_had_room_for_all():
    async def go():
        (first, one), (second, other) = made(0), made(1)
        drawing = begin("train", one, other, room=2 * ROOM)
        await settle()
        running = first.splits["train"], second.splits["train"]
        await first.finish("train", 4)
        await second.finish("train", 4)
        return running, await drawing

    running, drawn = asyncio.run(go())
    assert running == (4, 4)
    assert sorted(key.draw for key in drawn) == list(range(ROOM))


def test_what_another_draw_has_on_an_engine_takes_nothing_from_its_share():
    """The few prompts of a probe would make one engine write more than the other."""

    async def go():
        (first, one), (second, other) = made(0), made(1)
        probing = begin("probe", one, prompts=1, room=2 * ROOM)
        await settle()
        drawing = begin("train", one, other, room=2 * ROOM)
        await settle()
        running = first.splits["train"], second.splits["train"]
        await first.finish("probe", 1)
        await first.finish("train", ROOM // 2)
        await second.finish("train", ROOM // 2)
        return running, await drawing, await probing

    running, drawn, probed = asyncio.run(go())
    assert running == (ROOM // 2, ROOM // 2)
    assert len(drawn) == ROOM and len(probed) == 1


def test_the_share_of_an_engine_that_comes_back_is_the_others():
    """It may take minutes; what has room goes on without it."""

    async def go():
        (first, one), (second, other) = made(0), made(1)
        other._reviving = asyncio.get_running_loop().create_future()  # a restart without an end
        drawing = begin("train", one, other, room=2 * ROOM)
        await settle()
        running = first.splits["train"], second.splits["train"]
        await first.finish("train", ROOM)
        return running, await drawing

    running, drawn = asyncio.run(go())
    assert running == (ROOM, 0) and len(drawn) == ROOM
