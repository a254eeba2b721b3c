"""Prompts in flight: what a phase writes, what a step takes, and that nobody is left behind."""

import asyncio
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isentropic.controller.drawing.episode import DrawnFrom
from isentropic.controller.drawing.flight import (
    Flight,
    Rules,
    finished_in,
    left_over,
)
from isentropic.controller.step import Clock
from isentropic.records import Group, Prompt, Rollout, RolloutKey, Segment

LONGEST = 16
SEGMENTS = ("rollout.segment_tokens=3", f"rollout.max_response_tokens={LONGEST}")
SMALL = (*SEGMENTS, "rollout.max_prompt_tokens=3")
PROMPT = Prompt(prompt_id="p", messages=(), answer="")


def group(draw, *, begun=1, ended=None):
    """One rollout, begun in the phase of one step, and finished in that of another, or not."""
    last = begun if ended is None else ended
    segments = [Segment(start=0, step=begun, source_step=begun - 1, policy_version=0, seed=0)]
    if last > begun:
        segments.append(Segment(start=3, step=last, source_step=last - 1, policy_version=0, seed=1))
    rollout = Rollout(
        key=RolloutKey("train", draw, 0, 0), prompt=PROMPT, token_ids=np.arange(7),
        turns=((1, 7),), rollout_logprob=np.zeros(6, np.float32), temperature=1.0, seed=0,
        finish_reason="unfinished" if ended is None else "stop", step=last, source_step=last - 1,
        policy_version=0, segments=tuple(segments),
    )  # fmt: skip
    return Group(draw=draw, prompt=PROMPT, rollouts=(rollout,))


def groups(*them):
    return {each.draw: each for each in them}


RULES = Rules(per_step=2, in_flight=5, max_lag=3, delay=1)


def test_a_phase_begins_as_many_as_are_missing():
    assert RULES.begins(Flight()) == range(5)
    flight = Flight(groups=tuple(group(draw) for draw in (1, 3, 4)), next_draw=5)
    assert RULES.begins(flight) == range(5, 7)
    full = Flight(groups=tuple(group(draw) for draw in range(6)), next_draw=6)
    assert list(RULES.begins(full)) == []  # prompts_in_flight was lowered in the middle of a run


def test_all_write_on_until_the_step_is_full():
    assert RULES.write_on(groups(group(0), group(1, ended=1), group(2)), due=[]) == [0, 2]
    assert RULES.write_on(groups(group(0), group(1, ended=1), group(2, ended=1)), due=[]) == []


def test_then_only_those_that_are_due_write_on():
    """By rank prompts 0 and 1 belong to step 1, which took 2 and 3: in step 2 they are due."""
    full = groups(group(0), group(1, ended=1), group(4), group(5, begun=2), group(6, ended=2))
    assert RULES.due(full, 2, next_draw=7) == [0, 1]
    assert RULES.write_on(full, due=[0, 1]) == [0]
    first = {draw: Group(draw=draw, prompt=PROMPT, rollouts=()) for draw in range(5)}
    assert RULES.due(first, 1, next_draw=5) == []


def test_a_step_takes_what_was_finished_first_then_what_was_drawn_first():
    full = groups(group(7, ended=2), group(5, ended=3), group(6, ended=2), group(4), group(3))
    taken = Rules(per_step=3, in_flight=5, max_lag=10, delay=9).take(full, due=[], step=3)
    assert [each.draw for each in taken] == [6, 7, 5]
    assert {rollout.step for each in taken for rollout in each.rollouts} == {3}
    assert [finished_in(each) for each in taken] == [2, 2, 3]


def test_a_step_takes_those_first_that_are_due():
    full = groups(group(7, ended=2), group(5, ended=3), group(6, ended=2))
    assert [each.draw for each in RULES.take(full, due=[5], step=3)] == [5, 6]


@pytest.mark.parametrize(
    ("in_flight", "max_lag", "delay"),
    [
        pytest.param("null", 1, 0, id="twice a step, one step later: in the order of draws"),
        pytest.param("null", 4, 3, id="the default"),
        pytest.param("9", 2, 0, id="rounded up: the ninth belongs to the third step"),
        pytest.param("4", 0, 0, id="nothing is carried"),
    ],
)
def test_the_bound_leaves_room_for_what_is_in_flight(in_flight, max_lag, delay, fake_run):
    run = fake_run(*SMALL, f"rollout.prompts_in_flight={in_flight}", f"rollout.max_lag={max_lag}")
    assert Rules.of(run.config.rollout).delay == delay


def lived(plan, *, chance, seed=0):
    """Goes through phases in which each prompt ends with this chance per segment.

    Args:
        plan: (steps, per_step, in_flight, max_lag) after each other: of a run and its resumes.

    Returns:
        (rules, flight before it, due, taken, steps from begin to use of those) of each step.
    """
    rng, flight, found = random.Random(seed), Flight(), []
    for steps, per_step, in_flight, max_lag in plan:
        delay = max_lag - (-(-in_flight // per_step) - 1)
        rules = Rules(per_step=per_step, in_flight=in_flight, max_lag=max_lag, delay=delay)
        for step in range(len(found) + 1, len(found) + steps + 1):
            begun = rules.begins(flight)
            all_ = groups(*flight.groups, *(group(draw, begun=step) for draw in begun))
            due = rules.due(all_, step, begun.stop)
            writing = [draw for draw, each in all_.items() if not each.is_finished]
            while writing:
                for draw in writing:
                    if rng.random() < chance:
                        all_[draw] = group(draw, begun=all_[draw].begun_in, ended=step)
                writing = rules.write_on(all_, due)
            taken = [each.draw for each in rules.take(all_, due, step)]
            lags = [step - all_[draw].begun_in for draw in taken]
            found.append((rules, flight, due, taken, lags))
            left = tuple(all_[draw] for draw in sorted(all_.keys() - set(taken)))
            flight = Flight(groups=left, next_draw=begun.stop)
    return found


@pytest.mark.parametrize("in_flight", [8, 9, 11, 12, 16])
@pytest.mark.parametrize("more", [0, 1, 3])
def test_with_one_set_of_numbers_due_is_who_is_late_in_the_order_of_draws(in_flight, more):
    """Prompt d belongs to step d // 4 + 1. Bits of runs depend on this."""
    max_lag, any_due = -(-in_flight // 4) - 1 + more, 0
    found = lived([(40, 4, in_flight, max_lag)], chance=0.1)
    for step, (rules, flight, due, taken, lags) in enumerate(found, start=1):
        draws = [*(each.draw for each in flight.groups), *rules.begins(flight)]
        assert due == [draw for draw in draws if draw < 4 * (step - rules.delay)]
        assert len(taken) == 4 and max(lags) <= max_lag
        any_due += len(due)
    assert any_due > 4


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param((4, 8, 4), (8, 16, 4), id="twice as many prompts per step"),
        pytest.param((4, 8, 4), (6, 9, 4), id="half as many more"),
        pytest.param((8, 16, 4), (4, 8, 4), id="half as many"),
        pytest.param((8, 24, 5), (5, 9, 3), id="all of it lower"),
        pytest.param((4, 8, 4), (4, 16, 4), id="more in flight"),
        pytest.param((4, 8, 7), (4, 8, 2), id="a lower bound"),
    ],
)
@pytest.mark.parametrize("chance", [0.02, 0.3])
def test_numbers_that_a_resume_changes_do_not_shift_who_is_due(before, after, chance):
    """The bound holds soon after the change, and only those who come to it are due.

    Counted in steps of today's size, all prompts in flight would be due for the rest of the run, or
    none would ever be.
    """
    found = lived([(100, *before), (60, *after)], chance=chance)
    anew = lived([(60, *after)], chance=chance)
    settled = found[100 + before[2] :]
    assert all(max(lags) <= after[2] for *_, lags in settled)
    share = np.mean([len(due) for _, _, due, _, _ in settled]) / after[0]
    assert share == pytest.approx(
        np.mean([len(due) for _, _, due, _, _ in anew]) / after[0], abs=0.3
    )
    if chance > 0.1:
        assert share < 0.5


def test_what_was_begun_under_larger_numbers_is_taken_while_there_is_room():
    """Eight of one phase, two fit into a step: the first are due three steps before the bound."""
    rules = Rules(per_step=2, in_flight=4, max_lag=6, delay=5)
    full = groups(*(group(draw, begun=10) for draw in range(100, 108)))
    due = {step: rules.due(full, step, next_draw=108) for step in range(10, 17)}
    assert due[12] == [] and due[13] == [100, 101]  # 13 to 16 have room for two each
    assert due[16] == [100, 101], "more than fit are never due"


def drawn(run, steps, logits=None):
    """(groups that each step takes, what it leaves), under weights that do not change."""
    uniform = np.zeros(8) if logits is None else logits
    flight, found = Flight(), []

    async def go():
        nonlocal flight
        for step in range(1, steps + 1):
            run.pool.weights = run.learner_weights(step - 1, uniform)
            origin = DrawnFrom(step=step, source_step=step - 1, policy_version=step - 1)
            taken, flight = await run.sampler().draw_phase(
                run.config.sampling, flight, origin, Clock()
            )
            found.append((taken, flight))
        return found

    return asyncio.run(go())


@pytest.fixture
def phases(fake_run, fakes):
    """phases(*overrides, steps=...): what `drawn` gives, of a run with these settings."""

    def make(*overrides, steps, order_seed=0, logits=None):
        run = fake_run(*overrides)
        run.pool.order_seed = order_seed
        run.learner_weights = fakes["weights"]
        return drawn(run, steps, logits)

    return make


@pytest.fixture
def any_numbers(fake_run, fakes):
    """What `drawn` gives of a run with these numbers; of every n-th draw all responses are long.

    The config is read once: that takes seconds.
    """

    class Pool(fakes["pool"]):
        every = 2

        def _complete(self, request):
            logits = np.zeros(8)
            logits[7] = -np.inf if request.key.draw % self.every == 0 else 1.0
            self.weights = fakes["weights"](self.weights.policy_version, logits)
            return super()._complete(request)

    run = fake_run(*SMALL, pool=Pool())
    run.learner_weights = fakes["weights"]
    whole = run.config

    def make(seed, every, steps, **numbers):
        run.pool.every = every
        sampling = replace(
            whole.sampling, prompts_per_step=numbers["prompts_per_step"], group_size=1
        )
        rollout = replace(whole.rollout, **numbers)
        run.config = replace(whole, rollout=rollout, sampling=sampling, seed=seed)
        return drawn(run, steps)

    return make


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_draw_is_taken_once_and_none_later_than_the_bound(any_numbers, data):
    number = st.integers
    per_step = data.draw(number(1, 4), "per_step")
    in_flight = data.draw(number(per_step, 4 * per_step), "in_flight")
    fewest = -(-in_flight // per_step) - 1
    max_lag = data.draw(number(fewest, fewest + 3), "max_lag")
    steps = 9
    found = any_numbers(
        seed=data.draw(number(0, 99), "seed"),
        every=data.draw(number(2, 6), "every"),
        steps=steps,
        prompts_per_step=per_step,
        prompts_in_flight=in_flight,
        max_lag=max_lag,
        segment_tokens=data.draw(number(1, LONGEST), "segment_tokens"),
    )

    taken = [group for groups, _ in found for group in groups]
    flight = found[-1][1]
    assert [len(groups) for groups, _ in found] == [per_step] * steps
    assert sorted(each.draw for each in [*taken, *flight.groups]) == list(range(flight.next_draw))
    assert len(flight.groups) == in_flight - per_step
    for step, (groups, left) in enumerate(found, start=1):
        assert all(step - group.begun_in <= max_lag for group in groups)
        # Those that stay can all be taken before they are too old.
        assert all(step - group.begun_in < max_lag for group in left.groups)
        assert all(group.is_finished for group in groups)


def test_a_segment_is_cut_by_tokens(phases):
    """Each request of a rollout writes three tokens, the last one what is left."""
    for taken, left in phases(*SMALL, steps=4):
        for rollout in [r for group in (*taken, *left.groups) for r in group.rollouts]:
            starts = [segment.start for segment in rollout.segments]
            assert starts == list(range(0, rollout.num_response_tokens, 3))
            assert len({segment.seed for segment in rollout.segments}) == len(starts)
            assert rollout.segments[0].seed == rollout.seed
            assert rollout.is_finished or rollout.num_response_tokens % 3 == 0


def test_a_carried_rollout_goes_on_where_it_was(phases):
    """What a step leaves is the beginning of what a later one takes, token by token."""
    found = phases(*SMALL, steps=6)
    final = {r.key: r for taken, _ in found for group in taken for r in group.rollouts}
    checked = 0
    for _, left in found:
        for part in [r for group in left.groups for r in group.rollouts if r.key in final]:
            whole = final[part.key]
            np.testing.assert_array_equal(whole.token_ids[: len(part.token_ids)], part.token_ids)
            assert whole.segments[: len(part.segments)] == part.segments
            checked += not part.is_finished
    assert checked > 10


def probabilities():
    """Of each length under uniform weights over eight tokens, one of which ends a response."""
    lengths = np.arange(1, LONGEST + 1)
    ends = (7 / 8) ** (lengths - 1) / 8
    ends[-1] = (7 / 8) ** (LONGEST - 1)
    return ends


def distance(lengths):
    """Chi-squared of how often each length came; of 15 degrees of freedom above 38 once in 1000."""
    counts = np.array([Counter(lengths)[length] for length in range(1, LONGEST + 1)])
    expected = probabilities() * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def test_the_lengths_trained_on_are_those_of_the_policy(phases):
    """Over 100 steps. Those that were finished at once are too short: this is what could go wrong."""
    found = phases(*SMALL, "rollout.prompts_in_flight=12", steps=100)
    taken = [group for groups, _ in found for group in groups]
    lengths = [r.num_response_tokens for group in taken for r in group.rollouts]
    at_once = [
        r.num_response_tokens
        for group in taken
        if group.begun_in == finished_in(group)
        for r in group.rollouts
    ]

    assert len(lengths) == 100 * 4 * 4
    assert distance(lengths) < 38
    assert len(at_once) > 100 and distance(at_once) > 76


def test_what_a_run_leaves_is_said(phases):
    (_, left) = phases(*SMALL, steps=1)[-1]
    unfinished = sum(not rollout.is_finished for rollout in left.rollouts)
    tokens = sum(rollout.num_response_tokens for rollout in left.rollouts)
    assert left_over(left).startswith(
        f"4 prompts were in flight when the run ended: {unfinished} of their 16 rollouts are not "
        f"finished, {tokens} tokens were trained on by no step."
    )
    assert left_over(Flight()) == ""
