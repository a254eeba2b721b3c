"""Waves to graded groups: the same draws give the same rollouts, in one order."""

import asyncio
import threading

import numpy as np
import pytest

from isentropic.controller.sampler import DrawnFrom
from isentropic.controller.step import Clock
from isentropic.methods.slots import Wave

DRAWN_FROM = DrawnFrom(step=3, source_step=1, policy_version=8)


class Plan:
    """The waves it was given, one after the other."""

    def __init__(self, *waves):
        self._waves = list(waves)

    def next_wave(self, groups):
        return self._waves.pop(0) if self._waves else None


def wave(**values):
    return Wave(temperature=1.0, **values)


def draw(run, fakes, *waves, first_draw=0, clock=None):
    """(groups, next draw) of a step, under uniform weights."""
    run.pool.weights = fakes["weights"](8, np.zeros(8))
    return asyncio.run(
        run.sampler().draw_step(Plan(*waves), first_draw, DRAWN_FROM, clock or Clock())
    )


def test_rollouts_come_in_canonical_order_whichever_finished_first(fake_run, fakes):
    one, other = fake_run(folder="one"), fake_run(folder="other")
    other.pool.order_seed = 7
    ordered, _ = draw(one, fakes, wave(new_prompts=3, group_size=4))
    shuffled, _ = draw(other, fakes, wave(new_prompts=3, group_size=4))

    assert [key for key, _ in one.pool.drawn] != [key for key, _ in other.pool.drawn]
    assert [group.draw for group in ordered] == [0, 1, 2]
    for group, same in zip(ordered, shuffled, strict=True):
        assert [rollout.key.sample for rollout in group.rollouts] == [0, 1, 2, 3]
        for a, b in zip(group.rollouts, same.rollouts, strict=True):
            assert (a.key, a.reward, a.seed) == (b.key, b.reward, b.seed)
            np.testing.assert_array_equal(a.token_ids, b.token_ids)


def test_a_later_wave_joins_the_groups_of_its_draws(fake_run, fakes):
    """Two prompts of two, then three more samples of the second: wave 1, and other seeds."""
    groups, next_draw = draw(
        fake_run(),
        fakes,
        wave(new_prompts=2, group_size=2),
        wave(draws=(11,), group_size=3),
        first_draw=10,
    )
    assert [[(r.key.wave, r.key.sample) for r in group.rollouts] for group in groups] == [
        [(0, 0), (0, 1)],
        [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)],
    ]
    assert next_draw == 12  # the second wave took no new prompt
    assert len({rollout.seed for group in groups for rollout in group.rollouts}) == 7


def test_a_rollout_says_what_it_was_drawn_for_and_from(fake_run, fakes):
    clock = Clock()
    groups, _ = draw(fake_run(), fakes, wave(new_prompts=1, group_size=4), clock=clock)
    for rollout in groups[0].rollouts:
        assert (rollout.step, rollout.source_step, rollout.policy_version) == (3, 1, 8)
        np.testing.assert_allclose(rollout.rollout_logprob, -np.log(8), rtol=1e-6)
        ones = list(rollout.token_ids[rollout.response_mask]).count(1)
        assert rollout.reward == float(ones >= 2)  # the fake task's
    assert clock.tokens == sum(rollout.num_response_tokens for rollout in groups[0].rollouts)


def test_turns_are_decoded_once_and_not_in_the_event_loop(fake_run, fakes):
    """A token costs 0.1 to 0.2 us; engines would wait for their next prompts meanwhile."""
    threads = []

    class Chat(fakes["chat"]):
        def turn_texts(self, rollout):
            threads.append(threading.current_thread())
            return super().turn_texts(rollout)

    class Grader:
        async def grade(self, rollouts):
            return [float(len(rollout.texts[0])) for rollout in rollouts]

    run = fake_run()
    run.pool.weights = fakes["weights"](0, np.zeros(8))
    sampler = run.sampler(grader=Grader())
    sampler._chat = Chat()
    groups, _ = asyncio.run(
        sampler.draw_step(Plan(wave(new_prompts=4, group_size=4)), 0, DRAWN_FROM, Clock())
    )
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    assert [rollout.texts for rollout in rollouts] == [
        tuple(fakes["chat"]().turn_texts(rollout)) for rollout in rollouts
    ]
    assert len(threads) == 16 and threading.main_thread() not in threads


def test_evaluation_goes_round_the_held_out_prompts(fake_run, fakes):
    """Four are held out: the fifth prompt is the first again, with a draw of its own."""
    run = fake_run()
    run.pool.weights = fakes["weights"](8, np.zeros(8))
    groups = asyncio.run(
        run.sampler().draw_evaluation("eval", 6, wave(group_size=2), DRAWN_FROM, 3)
    )
    assert [group.prompt.prompt_id for group in groups] == [
        f"eval-{index}" for index in (0, 1, 2, 3, 0, 1)
    ]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    assert len({rollout.key for rollout in rollouts}) == 12
    assert {rollout.key.split for rollout in rollouts} == {"eval"}
    assert max(rollout.num_response_tokens for rollout in rollouts) == 3


def test_a_response_never_leaves_the_window(fake_run, fakes):
    """A window of 20 has room for 17 tokens after a prompt of 3, whatever the limit says."""
    run = fake_run("rollout.max_response_tokens=100", "rollout.max_prompt_tokens=3")
    groups, _ = draw(run, fakes, wave(new_prompts=8, group_size=8))
    lengths = [len(rollout.token_ids) for group in groups for rollout in group.rollouts]
    assert max(lengths) == 20


def test_a_broken_engine_leaves_no_grading_behind(fake_run, fakes):
    """Its error comes out, and the grading of what was finished is ended with it."""

    class Pool(fakes["pool"]):
        async def generate(self, requests):
            async for completions in super().generate(requests):
                yield completions
                await begun.wait()

    run = fake_run(pool=Pool(fail_at=10))
    run.pool.weights = fakes["weights"](0, np.zeros(8))
    left, begun = [], asyncio.Event()

    class Grader:
        async def grade(self, rollouts):
            try:
                begun.set()
                await asyncio.sleep(60)
            finally:
                left.append(len(rollouts))

    async def go():
        sampler = run.sampler(Grader())
        with pytest.raises(RuntimeError, match="engine 0 is gone"):
            await sampler.draw_step(Plan(wave(new_prompts=4, group_size=4)), 0, DRAWN_FROM, Clock())
        await asyncio.sleep(0)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(go()) == set()
    assert left and sum(left) < 16
