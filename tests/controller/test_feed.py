"""The schedule of feed.py's table: which weights a step is drawn from, and when engines load."""

import asyncio
import re
import weakref
from collections import Counter
from contextlib import asynccontextmanager

import numpy as np
import pytest

from isentropic.controller import feed as feed_module
from isentropic.controller.feed import PROBE_PROMPTS, last_step_drawn, steps_drawn_from

LOGITS = np.zeros(8)
NO_EVALUATION = "evaluation.every=0"


@asynccontextmanager
async def feeding(feed, done=0, next_draw=0):
    """The feed at work until the block ends; its own error ends the block, and so does a hang."""
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        task = group.create_task(feed.run(done, next_draw))
        yield
        task.cancel()


def table():
    """staleness -> the weights that steps 1 to 5 are drawn from, as the docstring says."""
    rows = re.findall(r"^ +(\d)  +(w\d(?: +w\d)+)", feed_module.__doc__, re.MULTILINE)
    return {int(number): [int(word[1:]) for word in words.split()] for number, words in rows}


@pytest.mark.parametrize(
    ("staleness", "sources"),
    [
        pytest.param(0, [0, 1, 2, 3, 4], id="each step from the weights it starts with"),
        pytest.param(1, [0, 0, 1, 2, 3], id="one step behind"),
        pytest.param(2, [0, 0, 0, 1, 2], id="two steps behind"),
    ],
)
def test_the_table(staleness, sources):
    drawn = [
        (step, source)
        for source in range(6)
        for step in steps_drawn_from(source, staleness=staleness, last=5)
    ]
    assert drawn == list(enumerate(sources, start=1))
    assert table()[staleness] == sources


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_what_older_weights_drew_and_what_is_left_to_draw_are_all_steps(staleness):
    """Wherever a run goes on: no step is missing, none is drawn twice."""
    for done in range(6):
        drawn = last_step_drawn(done, staleness=staleness, last=5)
        left = [
            step
            for source in range(done, 6)
            for step in steps_drawn_from(source, staleness=staleness, last=5)
        ]
        assert left == list(range(drawn + 1, 6))


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_engines_draw_as_far_as_the_weights_reach(staleness, fake_run, fakes):
    """With the weights of the start they draw 1 + n steps and wait; w1 brings one step more."""
    run = fake_run(f"rollout.max_staleness={staleness}", NO_EVALUATION)

    async def go():
        feed = run.feed()
        async with feeding(feed):
            for step in (0, 1):
                feed.publish(step, fakes["weights"](step, LOGITS))
                last = await feed.batch(1 + staleness + step)
                await feed.settled()
                files = sorted(path.name for path in (run.folder / "rollouts").iterdir())
                assert files == [f"step_{n:06d}.parquet" for n in range(1, staleness + step + 2)]
                assert (last.batch.source_step, last.batch.policy_version) == (step, step)
                assert run.pool.loads == list(range(step + 1))

    asyncio.run(go())


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_probe_is_sampled_after_every_load(staleness, fake_run, fakes):
    """On policy beside the draw, which is delivered with it; off policy before the draw."""
    run = fake_run(NO_EVALUATION, f"rollout.max_staleness={staleness}")
    run.pool.num_actors = 3

    async def go():
        feed = run.feed()
        async with feeding(feed):
            assert feed.probe_so_far(0) == []
            feed.publish(0, fakes["weights"](0, LOGITS))
            await feed.batch(1)
            assert feed.probe_so_far(0) == await feed.probe(0)
            if staleness:
                await feed.batch(2)
            return await feed.probe(0)

    probe = asyncio.run(go())
    assert len(probe) == 3 * PROBE_PROMPTS
    splits = [key.split for key, _ in run.pool.drawn]
    assert splits.count("probe/0") == len(probe)
    assert splits.count("train") == 16 * (1 + staleness)
    assert set(splits) == {"probe/0", "train", "start"}  # start: for the entropy of line 0
    assert splits[0] == "probe/0", "its prompts are handed out first"
    before_all = splits[: len(probe)] == ["probe/0"] * len(probe)
    assert before_all == (staleness == 1)


@pytest.mark.parametrize("ledger", ["empty", "whole"])
def test_no_step_and_no_evaluation_is_there_before_its_probe(ledger, fake_run, fakes):
    """The loop looks at what there is of it, and would check nothing; or have the engines sleep."""

    class Pool(fakes["pool"]):
        async def generate(self, requests):
            if requests[0].key.split.startswith("probe"):
                await asyncio.sleep(0.5)  # an evaluation is on disk by then
            async for completions in super().generate(requests):
                yield completions

    overrides = ("evaluation.every=1", "run.steps=3")
    if ledger == "whole":
        fake_run(*overrides, folder="one").run()
    run = fake_run(*overrides, folder="one", pool=Pool())

    async def go():
        feed = run.feed()
        async with feeding(feed):
            for step in range(3):
                feed.publish(step, fakes["weights"](step, LOGITS))
                await feed.evaluation(step)
                assert feed.probe_so_far(step)
                await feed.batch(step + 1)
                assert feed.probe_so_far(step)
        drawn = {key.split for key, _ in run.pool.drawn}
        assert ("train" in drawn) == (ledger == "empty")

    asyncio.run(go())


@pytest.mark.parametrize("staleness", [0, 2])
def test_weights_that_nothing_is_left_to_be_drawn_from_are_not_kept(staleness, fake_run, fakes):
    """A copy of the model each: the feed has the steps of a whole ledger long before they come."""
    overrides = (f"rollout.max_staleness={staleness}", NO_EVALUATION, "run.steps=3")
    fake_run(*overrides, folder="one").run()
    run = fake_run(*overrides, folder="one")

    async def go():
        feed, kept = run.feed(), []
        async with feeding(feed):
            for step in range(4):
                weights = fakes["weights"](step, LOGITS)
                kept.append(weakref.ref(weights))
                feed.publish(step, weights)
                del weights
                await feed.settled()
        run.pool.weights = None
        assert [ref() for ref in kept] == [None] * 4

    asyncio.run(go())


def test_who_no_longer_waits_takes_an_answer_from_nobody(fake_run, fakes):
    run = fake_run()

    async def go():
        feed = run.feed()
        async with feeding(feed):
            waiting = [
                asyncio.ensure_future(one)
                for one in (feed.evaluation(0), feed.batch(1), feed.probe(0))
            ]
            await asyncio.sleep(0)
            for one in waiting:
                one.cancel()
            await asyncio.sleep(0)
            assert feed.evaluation_so_far(0) is None and feed.probe_so_far(0) == []
            feed.publish(0, fakes["weights"](0, LOGITS))
            assert (await feed.evaluation(0)).step == 0
            assert (await feed.batch(1)).batch.step == 1 and await feed.probe(0)

    asyncio.run(go())


@pytest.mark.parametrize("staleness", [1, 2])
def test_engines_that_are_slower_than_the_learner_go_on(staleness, fake_run, fakes):
    """Step s + 1 + n comes from weights s only when step s + 1 is trained, reported and dropped."""

    class Pool(fakes["pool"]):
        async def generate(self, requests):
            source = self.weights.policy_version // 2  # two updates a step
            while requests[0].key.split == "train" and source and source + 1 not in run.lines.lines:
                await asyncio.sleep(0)
            for _ in range(100):  # what is behind the line of a step
                await asyncio.sleep(0)
            async for completions in super().generate(requests):
                yield completions

    overrides = (f"rollout.max_staleness={staleness}", NO_EVALUATION, "checkpoint.every=0")
    run = fake_run(*overrides, folder="slow", pool=Pool())
    asyncio.run(asyncio.wait_for(run.controller().run(), 60))
    assert run.stable == fake_run(*overrides, folder="quick").run().stable


def test_what_the_ledger_has_is_not_drawn_and_its_weights_are_not_loaded(fake_run, fakes):
    """Except w0, for the entropy of the start. w2 is never loaded: nothing is left to draw."""
    first = fake_run(NO_EVALUATION, "run.steps=2", folder="same")
    again = fake_run(NO_EVALUATION, "run.steps=2", folder="same")

    async def feed_all(run):
        feed = run.feed()
        async with feeding(feed):
            for step in (0, 1, 2):
                feed.publish(step, fakes["weights"](step, LOGITS))
            deliveries = [await feed.batch(step) for step in (1, 2)]
            return deliveries, [await feed.probe(source) for source in (0, 1)]

    drawn, probes = asyncio.run(feed_all(first))
    read, no_probes = asyncio.run(feed_all(again))
    assert [len(probe) for probe in probes] == [PROBE_PROMPTS, PROBE_PROMPTS]
    assert [len(probe) for probe in no_probes] == [PROBE_PROMPTS, 0]
    assert (first.pool.loads, again.pool.loads) == ([0, 1], [0])
    assert "train" not in {key.split for key, _ in again.pool.drawn}
    for old, new in zip(drawn, read, strict=True):
        assert [r.key for r in old.batch.rollouts] == [r.key for r in new.batch.rollouts]
        assert (old.clock.tokens > 0, new.clock.tokens, new.sync_s) == (True, 0, 0.0)


@pytest.mark.parametrize(("staleness", "drawn"), [(0, 2), (1, 3), (2, 4)])
def test_a_resumed_run_goes_on_behind_what_was_drawn(staleness, drawn, fake_run, fakes):
    """After step 2, steps up to 2 + n are in the ledger, four prompts each."""
    overrides = (f"rollout.max_staleness={staleness}", NO_EVALUATION)
    first, again = fake_run(*overrides, folder="same"), fake_run(*overrides, folder="same")

    async def go():
        feed = first.feed()
        async with feeding(feed):
            for step in (0, 1, 2):
                feed.publish(step, fakes["weights"](step, LOGITS))
            next_draw = await feed.next_draw(2)
        (first.folder / "rollouts" / f"step_{drawn + 1:06d}.parquet").unlink(missing_ok=True)
        feed = again.feed()
        async with feeding(feed, done=2, next_draw=next_draw):
            feed.publish(2, fakes["weights"](2, LOGITS))
            return next_draw, (await feed.batch(drawn + 1)).batch

    next_draw, batch = asyncio.run(go())
    assert next_draw == 4 * drawn
    assert [group.draw for group in batch.groups] == list(range(next_draw, next_draw + 4))
    assert batch.source_step == 2
    keys = Counter(key for key, _ in again.pool.drawn if key.split == "train")
    assert {key.draw for key in keys} == set(range(next_draw, next_draw + 4))


def test_a_ledger_with_a_gap_is_refused(fake_run):
    """With staleness 1 step 3 was drawn before the checkpoint of step 2; its file must be there."""
    feed = fake_run("rollout.max_staleness=1").feed()
    with pytest.raises(ValueError, match="has no step 3 in"):
        asyncio.run(feed.run(2, 12))


def test_the_ledger_keeps_the_candidates(fake_run, fakes):
    """What may join a group is recorded with it, though it is no rollout of the step."""
    run = fake_run(NO_EVALUATION)

    def candidates(groups):
        return [groups[0].rollouts[0], groups[1].rollouts[0]]

    async def go():
        feed = run.feed(candidates)
        async with feeding(feed):
            feed.publish(0, fakes["weights"](0, LOGITS))
            return (await feed.batch(1)).batch

    batch = asyncio.run(go())
    assert [rollout.key.draw for rollout in batch.teachers] == [0, 1]
    assert len(batch.rollouts) == 16


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        pytest.param(0, [0], id="never, but line 0 has the entropy of the start"),
        pytest.param(4, [0, 4, 6], id="every fourth, and the last"),
    ],
)
def test_which_weights_are_evaluated(every, steps, fake_run):
    feed = fake_run(f"evaluation.every={every}").feed()
    assert [step for step in range(7) if feed.evaluates(step)] == steps
