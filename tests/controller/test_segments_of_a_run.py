"""A run in segments on fakes: its bits do not depend on order, engines or interruptions."""

import asyncio
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from isentropic.controller import feed as feed_module
from isentropic.controller.drawing.flight import left_over
from isentropic.controller.reporting import Reporter
from isentropic.controller.step import Delivery
from isentropic.controller.storage.carried import read_flight, write_flight
from isentropic.controller.storage.ledger import LedgerError, read_batch

SEGMENTS = (
    "rollout.segment_tokens=3",
    "rollout.max_response_tokens=16",
    "rollout.max_prompt_tokens=3",
    "evaluation.every=0",
)
STALENESS = [0, 1]
BOTH = ("rollouts", "carried")


def overrides(staleness=0):
    return (*SEGMENTS, f"rollout.max_staleness={staleness}")


def batches(run, steps=6):
    return [read_batch(run.folder / "rollouts", step) for step in range(1, steps + 1)]


def rollouts(run):
    return [rollout for batch in batches(run) for rollout in batch.rollouts]


def assert_same(one, other):
    assert one.stable == other.stable
    np.testing.assert_array_equal(one.learner.logits, other.learner.logits)


@pytest.mark.parametrize("staleness", STALENESS)
def test_neither_order_nor_engines_change_a_bit(fake_run, staleness):
    one = fake_run(*overrides(staleness), folder="one").run()
    other = fake_run(*overrides(staleness), folder="other")
    other.pool.order_seed = 7
    other.pool.num_actors = 2
    other.run()
    assert_same(one, other)
    for mine, theirs in zip(rollouts(one), rollouts(other), strict=True):
        np.testing.assert_array_equal(mine.rollout_logprob, theirs.rollout_logprob)
        assert mine.segments == theirs.segments


@pytest.mark.parametrize("staleness", STALENESS)
@pytest.mark.parametrize("share", [0.7, 0.85])
def test_killed_in_the_middle_of_a_phase_it_goes_on_to_the_same_bits(fake_run, staleness, share):
    whole = fake_run(*overrides(staleness), folder="whole").run()
    killed = fake_run(*overrides(staleness), folder="killed")
    killed.pool.fail_at = int(share * len(whole.pool.drawn))
    with pytest.raises(RuntimeError, match="engine 0 is gone"):
        killed.run()
    done = max(killed.lines.lines)
    assert 2 <= done < 6, "it was to be killed behind a checkpoint, and before the end"
    resumed = fake_run(*overrides(staleness), folder="killed").run(resume=True)

    assert min(resumed.lines.lines) > 2, "it was to go on from a checkpoint"
    assert killed.stable | resumed.stable == whole.stable
    np.testing.assert_array_equal(resumed.learner.logits, whole.learner.logits)
    assert read_flight(resumed.folder / "carried", 6) is not None
    for mine, theirs in zip(rollouts(whole), rollouts(resumed), strict=True):
        np.testing.assert_array_equal(mine.token_ids, theirs.token_ids)


def test_a_step_whose_carried_prompts_are_lost_is_drawn_again(fake_run):
    """The step itself is in the ledger, but what it left is needed for the next one."""
    whole = fake_run(*SEGMENTS, folder="whole").run()
    again = fake_run(*SEGMENTS, folder="again").run()
    for step in (5, 6):
        (again.folder / "carried" / f"step_{step:06d}.parquet").unlink()
    (again.folder / "checkpoints" / "step_000006").rename(again.folder / "gone")
    resumed = fake_run(*SEGMENTS, folder="again").run(resume=True)

    assert min(resumed.lines.lines) == 5
    assert {key.draw for key, _ in resumed.pool.drawn if key.split == "train"}
    np.testing.assert_array_equal(resumed.learner.logits, whole.learner.logits)


@pytest.mark.parametrize("first", [0, 1])
def test_a_step_drawn_again_to_other_bits_takes_those_behind_it_along(
    fake_run, fakes, caplog, first
):
    """On a GPU. What the later steps had taken before, the new one may have trained on already."""

    class Pool(fakes["pool"]):
        """Every other draw ends at once."""

        def _complete(self, request):
            if request.key.split != "train":
                return super()._complete(request)
            loaded, end = self.weights, 9.0 if request.key.draw % 2 == first else -9.0
            self.weights = fakes["weights"](loaded.policy_version, np.array([0.0] * 7 + [end]))
            completion = super()._complete(request)
            self.weights = loaded
            return completion

    run = fake_run(*SEGMENTS).run()
    (run.folder / "rollouts" / "step_000003.parquet").unlink()
    shutil.rmtree(run.folder / "checkpoints")
    again = fake_run(*SEGMENTS, pool=Pool()).run(resume=True)

    trained = Counter(group.draw for batch in batches(again) for group in batch.groups)
    left = read_flight(again.folder / "carried", 6)
    assert set(trained.values()) == {1}
    assert sorted([*trained, *(group.draw for group in left.groups)]) == list(range(28))
    aside = run.folder / "set_aside" / "1"
    for name in BOTH:
        assert [path.name for path in sorted((aside / name).iterdir())] == [
            f"step_{step:06d}.parquet" for step in (4, 5, 6)
        ]
    assert "step 3 was drawn again" in caplog.text and "steps 4 to 6" in caplog.text


def test_a_step_whose_weights_are_gone_must_follow(fake_run):
    """With staleness 1 the weights that drew step 3 are those after step 1."""
    run = fake_run(*overrides(1)).run()
    for name in BOTH:
        (run.folder / name / "step_000004.parquet").unlink()
    batch, left = read_batch(run.folder / "rollouts", 3), read_flight(run.folder / "carried", 3)
    twice = replace(left, groups=(batch.groups[0], *left.groups[1:]))
    write_flight(run.folder / "carried", twice, batch)

    async def go():
        await asyncio.wait_for(run.feed().run(2, 16), 10)

    with pytest.raises(LedgerError, match=r"step 3 in .* does not follow from what step 2 left"):
        asyncio.run(go())


def test_what_the_step_before_left_must_be_there(fake_run):
    run = fake_run(*SEGMENTS)
    with pytest.raises(ValueError, match=r"has no step 2 in .*rollouts, or none in .*carried"):
        asyncio.run(run.feed().run(2, 12))


def test_a_ledger_holds_no_rollout_that_is_not_finished(fake_run):
    """The file of what was left looks like a step's: in its place it would be trained on."""
    run = fake_run(*SEGMENTS).run()
    left = run.folder / "carried" / "step_000006.parquet"
    left.rename(run.folder / "rollouts" / "step_000006.parquet")
    with pytest.raises(LedgerError, match="is not finished"):
        read_batch(run.folder / "rollouts", 6)


@pytest.mark.parametrize("staleness", STALENESS)
def test_every_draw_is_trained_once(fake_run, staleness):
    """Of six steps: what they trained on and what they left are the first 28 draws, an epoch is 20."""
    run = fake_run(*overrides(staleness)).run()
    trained = Counter(group.draw for batch in batches(run) for group in batch.groups)
    left = read_flight(run.folder / "carried", 6)
    assert set(trained.values()) == {1}
    assert sorted([*trained, *(group.draw for group in left.groups)]) == list(range(28))
    assert left.next_draw == 28


def test_all_that_a_step_takes_was_drawn_and_on_disk_before(fake_run):
    """When the learner scores a step, everything drawn until then is in the ledger."""
    run = fake_run(*SEGMENTS)
    score, seen = run.learner.score, []

    async def scored(batches, *, reference):
        names = [sorted(path.name for path in run.folder.glob(f"{each}/*")) for each in BOTH]
        seen.append(names)
        return await score(batches, reference=reference)

    run.learner.score = scored
    run.run()
    _of_the_start, *of_steps = seen  # step 1 is drawn while the answers of the start are scored
    assert all(ledger == carried for ledger, carried in of_steps)
    assert of_steps[-1][0][-1] == "step_000006.parquet"


def test_what_is_left_is_written_before_the_step(fake_run, monkeypatch):
    """A step that the ledger has must be one that the next can follow."""
    run = fake_run(*SEGMENTS)

    def torn(folder, flight, batch):
        if batch.step == 3:
            raise RuntimeError("the machine is gone")
        return write_flight(folder, flight, batch)

    monkeypatch.setattr(feed_module, "write_flight", torn)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        run.run()
    assert not (run.folder / "rollouts" / "step_000003.parquet").exists()


@pytest.mark.parametrize("staleness", STALENESS)
def test_each_token_has_the_logprob_of_the_weights_that_wrote_it(fake_run, staleness):
    """The policy is one softmax: its logprobs name the weights."""
    run = fake_run(*overrides(staleness))
    weights, load = {}, run.pool.load_weights

    async def kept(published):
        weights[published.policy_version] = published.logits
        return await load(published)

    run.pool.load_weights = kept
    run.run()
    mixed = 0
    for rollout in rollouts(run):
        tokens = rollout.token_ids[rollout.response_mask]
        ends = [*(segment.start for segment in rollout.segments[1:]), len(tokens)]
        for segment, end in zip(rollout.segments, ends, strict=True):
            logits = weights[segment.policy_version]
            logprob = logits - np.log(np.exp(logits).sum())
            span = slice(segment.start, end)
            np.testing.assert_allclose(
                rollout.rollout_logprob[span], logprob[tokens[span]], rtol=1e-5, atol=1e-6
            )
            assert segment.source_step == max(0, segment.step - 1 - staleness)
        mixed += len({segment.policy_version for segment in rollout.segments}) > 1
    assert mixed > 10


def test_metrics_by_hand(fake_run):
    """From the ledger alone: ages, segments, what is carried, and the bias of lengths."""
    run = fake_run(*SEGMENTS).run()
    trained = {}
    for step, batch in enumerate(batches(run), start=1):
        line = run.lines.lines[step]
        left = read_flight(run.folder / "carried", step)
        first = batch.rollouts
        begun = [min(r.segments[0].step for r in group.rollouts) for group in batch.groups]
        assert line["segments/lag_mean"] == pytest.approx(np.mean([step - b for b in begun]))
        assert line["segments/lag_max"] == step - min(begun)
        assert line["segments/per_rollout_mean"] == np.mean([len(r.segments) for r in first])
        assert line["segments/carried_prompts"] == len(left.groups) == 4
        assert line["segments/carried_tokens"] == sum(r.num_response_tokens for r in left.rollouts)
        finished = [all(r.is_finished for r in group.rollouts) for group in left.groups]
        assert line["segments/carried_finished"] == sum(finished)
        written = [
            sum(int(r.source_steps[i] == step - 1) for i in range(r.num_response_tokens))
            for r in [*first, *left.rollouts]
        ]
        assert line["segments/phase_tokens_max"] == max(written)
        trained |= {
            group.draw: [r.num_response_tokens for r in group.rollouts] for group in batch.groups
        }
        whole = [draw for draw in trained if all(d in trained for d in range(draw + 1))]
        if not whole:
            assert np.isnan(line["segments/length_bias"])
            continue
        bias = np.mean([*trained.values()]) / np.mean([trained[draw] for draw in whole])
        assert line["segments/length_bias"] == pytest.approx(bias - 1)


def test_staleness_is_over_tokens(fake_run):
    """With filter=keep_all everything that a step takes is trained on."""
    run = fake_run(*SEGMENTS, "filter=keep_all").run()
    for step, batch in enumerate(batches(run), start=1):
        stale = np.concatenate([step - 1 - rollout.source_steps for rollout in batch.rollouts])
        line = run.lines.lines[step]
        assert line["staleness/mean"] == pytest.approx(stale.mean())
        assert line["staleness/max"] == stale.max()
    assert 0 < line["staleness/mean"] < line["staleness/max"]


def test_engine_and_learner_are_compared_on_the_newest_tokens(fake_run):
    """They agree to rounding there; on the older ones the policy has moved."""
    run = fake_run(*SEGMENTS).run()
    gaps = [line["mismatch/logprob_abs_max"] for line in run.lines.lines.values()]
    assert np.nanmax(gaps) < 1e-6
    learned = run.lines.lines[6]
    assert learned["staleness/mean"] > 0 and learned["policy_version"] > 4


@pytest.mark.parametrize("weight", ["tis", "icepop"])
def test_token_weights_see_how_far_each_token_is_off(fake_run, weight):
    """Older tokens have another ratio than 1; it resumes to the same bits."""
    many = (*SEGMENTS, f"token_weight={weight}")
    whole = fake_run(*many, folder="whole").run()
    assert abs(whole.lines.lines[5]["mismatch/ratio"] - 1) > 1e-4
    killed = fake_run(*many, folder="killed")
    killed.pool.fail_at = int(0.8 * len(whole.pool.drawn))
    with pytest.raises(RuntimeError):
        killed.run()
    resumed = fake_run(*many, folder="killed").run(resume=True)
    np.testing.assert_array_equal(resumed.learner.logits, whole.learner.logits)


def test_with_nothing_in_flight_a_step_takes_what_it_begins(fake_run):
    """prompts_in_flight=prompts_per_step: the same prompts per step as without segments."""
    run = fake_run(*SEGMENTS, "rollout.prompts_in_flight=4").run()
    for step, batch in enumerate(batches(run), start=1):
        assert [group.draw for group in batch.groups] == list(range(4 * step - 4, 4 * step))
        assert read_flight(run.folder / "carried", step).groups == ()


def test_the_end_of_a_run_says_what_is_left(fake_run):
    run, said = fake_run(*SEGMENTS), []
    asyncio.run(run.controller(warn=said.append).run())
    assert said == [left_over(read_flight(run.folder / "carried", 6))]
    plain, silent = fake_run("evaluation.every=0", folder="plain"), []
    asyncio.run(plain.controller(warn=silent.append).run())
    assert silent == []


def test_a_longer_run_goes_on_with_what_was_left(fake_run):
    long = fake_run(*SEGMENTS, "run.steps=8", folder="long").run()
    fake_run(*SEGMENTS, folder="short").run()
    more = fake_run(*SEGMENTS, "run.steps=8", folder="short").run(resume=True)
    assert {step: more.stable[step] for step in (7, 8)} == {s: long.stable[s] for s in (7, 8)}
    np.testing.assert_array_equal(more.learner.logits, long.learner.logits)


def test_a_lower_limit_ends_what_is_longer(fake_run, fakes):
    """Allowed at a resume: what is in flight has more tokens already than a response may have."""
    fake_run(*SEGMENTS, "run.steps=3", folder="long").run()
    left = read_flight(fake_run(folder="long").folder / "carried", 3).rollouts
    long = {r.key: r for r in left if not r.is_finished and r.num_response_tokens > 4}
    assert long

    class Pool(fakes["pool"]):
        def _complete(self, request):
            assert request.max_tokens >= 1
            return super()._complete(request)

    few = (*SEGMENTS, "rollout.max_response_tokens=4")
    run = fake_run(*few, folder="long", pool=Pool()).run(resume=True)
    assert run.lines.lines[6]["response/tokens_mean"] <= 4
    found = {r.key: r for r in rollouts(run) if r.key in long}
    assert found.keys() == long.keys()
    for key, rollout in found.items():
        assert rollout.finish_reason == "length"
        assert rollout.segments == long[key].segments
        assert rollout.reward == float(list(rollout.token_ids[3:]).count(1) >= 2)


def test_a_replay_of_the_ledger_has_the_same_numbers(fake_run):
    """No engine and no schedule: all but what the phase left in flight, which no step is made of."""
    run = fake_run(*SEGMENTS).run()
    again = fake_run(*SEGMENTS, folder="again")
    trainer, reporter = again.trainer(), Reporter(again.config, again.lines)

    async def go():
        for batch in batches(run):
            step = await trainer.train(await trainer.score(Delivery(batch)))
            await trainer.recheck(step)
            reporter.step(step)

    asyncio.run(go())
    of_the_phase = ("segments/carried_", "segments/phase_tokens_max")
    for step, line in again.stable.items():
        before = run.stable[step]
        assert line == {key: before[key] for key in line}
        assert all(key.startswith(of_the_phase) for key in before.keys() - line.keys())
