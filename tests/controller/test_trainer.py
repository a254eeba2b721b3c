"""One step on a batch that is handed in: what is scored, trained and remembered, without a feed."""

import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest

from isentropic.controller.reporting import Reporter
from isentropic.controller.step import Delivery
from isentropic.controller.storage import checkpoints
from isentropic.controller.storage.ledger import Batch
from isentropic.controller.trainer import mean_entropy
from isentropic.learner.learner import Learner
from isentropic.methods.entropy_coefficient import EntropyCoefficient
from isentropic.records import Group, Prompt, Rollout, RolloutKey

UEC = [
    "method=uec_rl",
    "terms=none",
    "uec.replay_every=2",
    "uec.replay_threshold=0",
    "uec.keep=released",
    "uec.explore_size=4",
]
TREND = ["method=papo", "papo.signal=trend"]


def train(run, trainer, *numbers):
    """Draws the steps from the learner's weights, one after the other, and trains them."""

    async def go():
        steps = []
        for number in numbers:
            step = await trainer.score(Delivery(await run.draw(number)))
            steps.append(await trainer.train(step))
            await trainer.recheck(step)
        return steps

    return asyncio.run(go())


def two_answers(step=1):
    """A group of two responses of one token: 1 is right, 2 is wrong."""
    prompt = Prompt(prompt_id="p", messages=({"role": "user", "content": "0"},), answer="1")
    rollouts = [
        Rollout(
            key=RolloutKey("train", 0, 0, sample),
            prompt=prompt,
            token_ids=np.array([0, 0, 0, token]),
            turns=((3, 4),),
            rollout_logprob=np.full(1, -math.log(8), dtype=np.float32),
            temperature=1.0,
            seed=0,
            finish_reason="length",
            step=step,
            policy_version=0,
            reward=reward,
        )
        for sample, (token, reward) in enumerate([(1, 1.0), (2, 0.0)])
    ]
    group = Group(draw=0, prompt=prompt, rollouts=tuple(rollouts))
    return Batch(
        step=step,
        groups=(group,),
        next_draw=1,
        source_step=step - 1,
        policy_version=0,
        reward_errors=0,
    )


def test_a_step_moves_the_policy_from_the_wrong_answer_to_the_right_one(fake_run):
    """Advantages 1/2 and -1/2, weights 1/2: the gradient is (e1 - e2) / 4, and the rate is 1/2."""
    run = fake_run("advantage=centred", "learner.updates_per_rollout=1")
    trainer = run.trainer()

    async def go():
        return await trainer.train(await trainer.score(Delivery(two_answers())))

    step = asyncio.run(go())
    np.testing.assert_allclose(run.learner.logits, [0, 1 / 8, -1 / 8, 0, 0, 0, 0, 0], atol=1e-12)
    assert [sample.advantage.tolist() for sample in step.samples] == [[0.5], [-0.5]]
    assert [len(update.samples) for update in step.updates] == [2]
    assert (step.policy_version, trainer.policy_version) == (0, 1)
    assert trainer.step == 1


def test_only_the_next_step_can_be_trained(fake_run):
    trainer = fake_run().trainer()
    with pytest.raises(AssertionError, match="step 2 does not follow step 0"):
        asyncio.run(trainer.score(Delivery(two_answers(step=2))))


def test_the_probe_is_scored_apart_and_not_trained(fake_run):
    """Whether it is there in time depends on timing, which may move no bit of the step's own."""
    tokens, weights, steps = {}, {}, {}
    for folder in ("with", "without"):
        run = fake_run(folder=folder)
        trainer, score = run.trainer(), run.learner.score
        calls = tokens.setdefault(folder, [])

        async def counted(batches, *, reference, score=score, calls=calls):
            calls.append(sum(len(microbatch.target) for microbatch in batches[0]))
            return await score(batches, reference=reference)

        run.learner.score = counted

        async def go(run=run, trainer=trainer, probed=folder == "with"):
            batch = await run.draw(1)
            probe = [
                replace(rollout, key=rollout.key._replace(split="probe/0"))
                for rollout in batch.rollouts[:3]
            ]
            return await trainer.train(
                await trainer.score(Delivery(batch), probe if probed else [])
            )

        steps[folder], weights[folder] = asyncio.run(go()), run.learner.logits
    probed = steps["with"].scores.keys() - steps["without"].scores.keys()
    assert len(probed) == 3 and {key.split for key in probed} == {"probe/0"}
    assert tokens["with"][0] == tokens["without"][0]  # the step's own in a call of their own
    assert {sample.rollout.key.split for sample in steps["with"].samples} == {"train"}
    np.testing.assert_array_equal(weights["with"], weights["without"])


def test_a_recheck_sees_the_weights_after_the_updates(fake_run):
    """Half of what was trained; the entropy is that of the fake's softmax, worked out here."""
    run = fake_run("accounting.recheck_share=0.5")
    (step,) = train(run, run.trainer(), 1)

    p = np.exp(run.learner.logits) / np.exp(run.learner.logits).sum()
    entropy = -(p * np.log(p)).sum()
    assert len(step.rechecked) == math.ceil(len(step.samples) / 2)
    assert step.rechecked.keys() <= {sample.rollout.key for sample in step.samples}
    for key, scores in step.rechecked.items():
        np.testing.assert_allclose(scores.entropy, entropy, rtol=1e-6)
        np.testing.assert_allclose(step.scores[key].entropy, math.log(8), rtol=1e-6)


def test_the_entropy_of_nothing_is_no_number(fake_run):
    """As 0 it would be a collapse: PAPO's phase and an adaptive bonus would answer to it."""
    run = fake_run("method=grpo_adaptive_entropy")
    (step,) = train(run, run.trainer(), 1)
    rollout = step.delivery.batch.groups[0].rollouts[0]
    nothing = replace(step.scores[rollout.key], entropy=np.zeros(0, dtype=np.float32))
    assert math.isnan(mean_entropy([], {}))
    assert math.isnan(mean_entropy([rollout], {rollout.key: nothing}))
    rule = EntropyCoefficient(run.config.terms.adaptive_entropy)
    before = rule.value
    assert rule.update(mean_entropy([], {})) == before


def test_nothing_is_rechecked_if_nothing_was_trained(fake_run):
    run = fake_run("rollout.max_response_tokens=1")  # one token is never two ones: all wrong
    trainer = run.trainer()
    (step,) = train(run, trainer, 1)
    assert (step.samples, step.updates, step.rechecked) == ([], [], {})
    assert (trainer.step, trainer.policy_version) == (1, 0)


def poison(run):
    """No update can be made from here on."""
    update, logits = run.learner.update, run.learner.logits.copy()

    async def poisoned(batches):
        (result,) = await update(batches)
        run.learner.logits, run.learner.version = logits.copy(), 0
        updates = tuple(replace(one, skipped=True) for one in result.updates)
        return [replace(result, updates=updates, policy_version=0)]

    run.learner.update = poisoned


TWO_IN_A_ROW = ("learner.max_skipped_updates=2", "learner.updates_per_rollout=1")


def test_updates_that_cannot_be_made_are_counted_across_steps(fake_run):
    """One per step: the third in a row is one too many for a limit of two."""
    run = fake_run(*TWO_IN_A_ROW)
    trainer = run.trainer()
    poison(run)
    train(run, trainer, 1, 2)
    with pytest.raises(RuntimeError, match=r"3 updates in a row \(the last in step 3\)"):
        train(run, trainer, 3)


@pytest.mark.parametrize("counted", [True, False], ids=["as written today", "as written before"])
def test_and_across_a_resume(counted, fake_run, tmp_path):
    """A checkpoint after step 2 has the two; one of an earlier version says nothing: they are 0."""
    run, again = fake_run(*TWO_IN_A_ROW), fake_run(*TWO_IN_A_ROW, folder="again")
    trainer, restored = run.trainer(), again.trainer()
    poison(run)
    train(run, trainer, 1, 2)
    path, manifest = save(run, trainer, tmp_path / "checkpoints", "method")
    state = checkpoints.read_state(path)
    if not counted:
        del state["skipped_in_a_row"]
    asyncio.run(restored.restore(path, manifest, state))
    poison(again)
    if not counted:
        train(again, restored, 3, 4)
    with pytest.raises(RuntimeError, match="3 updates in a row"):
        train(again, restored, restored.step + 1)


def test_replayed_updates_follow_those_of_the_step(fake_run):
    run = fake_run(*UEC)
    steps = train(run, run.trainer(), *range(1, 9))

    replays = [step for step in steps if step.replayed]
    assert replays and all(step.step % 2 == 0 for step in replays)
    for step in replays:
        versions = [update.policy_version for update in (*step.updates, *step.replayed)]
        assert versions == list(range(step.policy_version, step.policy_version + len(versions)))
        assert {s.source for update in step.replayed for s in update.samples} == {"replay"}
        assert step.metrics["replay/entropy_before"] != step.metrics["replay/entropy_after"]
        seeds = [update.seed for update in (*step.updates, *step.replayed)]
        assert len(set(seeds)) == len(seeds)  # no objective draws the same numbers twice


def test_papo_signal_moves_though_nothing_is_trained(fake_run):
    """UEC-RL's queue may hold less than a unit; the entropy trajectory goes on."""
    run = fake_run("method=[papo,uec_rl]", "terms=none", "uec.explore_size=0")
    steps = train(run, run.trainer(), *range(1, 7))
    assert any(not step.updates for step in steps)
    assert all("papo/u" in step.metrics for step in steps)


def save(run, trainer, folder, key):
    """A checkpoint after the trainer's last step, with the method's state under `key`."""

    async def go():
        temporary = checkpoints.begin(folder, trainer.step)
        await run.learner.begin_save(temporary / "learner")
        await run.learner.end_save()
        return temporary

    state = trainer.state_dict()
    manifest = checkpoints.Manifest(
        step=trainer.step,
        policy_version=trainer.policy_version,
        next_draw=0,
        about={},
        files={},
    )
    temporary = asyncio.run(go())
    state = {key: state.pop("method"), **state, "reporter": {}}
    return checkpoints.commit(folder, temporary, manifest, state), manifest


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("method", id="as written today"),
        pytest.param("teaching", id="as written before 0.2"),
    ],
)
@pytest.mark.parametrize("method", [UEC, TREND], ids=["uec_rl", "papo"])
def test_a_checkpoint_brings_everything_back(method, key, fake_run, tmp_path):
    """A new trainer that restores it after step 3 trains step 4 with the same bits."""
    whole, again = fake_run(*method, folder="whole"), fake_run(*method, folder="again")
    trainer = whole.trainer()
    train(whole, trainer, 1, 2, 3)
    path, manifest = save(whole, trainer, tmp_path / "checkpoints", key)
    (expected,) = train(whole, trainer, 4)

    restored = again.trainer()
    asyncio.run(restored.restore(path, manifest, checkpoints.read_state(path)))
    assert (restored.step, restored.policy_version) == (3, expected.policy_version)
    (step,) = train(again, restored, 4)
    assert step.metrics == expected.metrics
    np.testing.assert_array_equal(again.learner.logits, whole.learner.logits)


STEERED = ("method=ce_gppo_steered", "accounting.ledger.every=1")


@pytest.mark.parametrize(
    ("before", "today", "slot"),
    [
        pytest.param(UEC, ["terms=none"], "reuse", id="a queue, then none"),
        pytest.param(["terms=none"], UEC, "reuse", id="none, then a queue"),
        pytest.param(TREND, [], "reweight", id="PAPO, then none"),
        pytest.param([], STEERED, "steering", id="none, then steered"),
        pytest.param(STEERED, ["method=flexec"], "steering", id="steered, then another plan"),
        pytest.param([], ["terms=adaptive_entropy"], "terms", id="none, then an adaptive bonus"),
    ],
)
def test_another_slot_begins_anew(before, today, slot, fake_run, tmp_path):
    """Allowed at a resume: its state is that of a new run, and the next step can be trained."""
    run, other = fake_run(*before, folder="before"), fake_run(*today, folder="today")
    trainer, restored = run.trainer(), other.trainer()
    train(run, trainer, 1, 2)
    path, manifest = save(run, trainer, tmp_path / "checkpoints", "method")
    recorded = {
        name: {"name": getattr(run.config, name).name}
        | {"actuators": dict(getattr(getattr(run.config, name), "actuators", {}))}
        for name in ("reuse", "reweight", "steering")
    }
    manifest = replace(manifest, about={"config": recorded})

    def states(trainer):
        return trainer.state_dict()["method"] | trainer.state_dict()

    fresh = repr(states(restored)[slot])
    asyncio.run(restored.restore(path, manifest, checkpoints.read_state(path)))
    assert repr(states(restored)[slot]) == fresh
    train(other, restored, 3)


def test_a_trainer_follows_another_as_far_as_they_have_the_same_slots(fake_run):
    """Same reweighting, another reuse: PAPO's trajectory is taken over, UEC-RL's queue is not."""
    both = ["method=[papo,uec_rl]", "terms=none", "papo.signal=trend", "uec.explore_size=0"]
    base, other = fake_run(*both, folder="base"), fake_run(*both, "uec.queue_units=7", folder="x")
    trainer, follower = base.trainer(), other.trainer()
    train(base, trainer, 1, 2)
    fresh = follower.state_dict()["method"]
    follower.follow(trainer)

    state, expected = follower.state_dict()["method"], trainer.state_dict()["method"]
    assert repr(state["reweight"]) == repr(expected["reweight"]) != repr(fresh["reweight"])
    assert repr(state["reuse"]) == repr(fresh["reuse"]) != repr(expected["reuse"])
    assert (follower.step, follower.policy_version) == (2, trainer.policy_version)


class OneRank:
    """A real learner behind the protocol; the fake engine goes on sampling uniformly."""

    num_batches = 1

    def __init__(self, learner, weights):
        self._learner, self._weights = learner, weights

    async def score(self, batches, *, reference):
        return [self._learner.score(batches[0], reference=reference)]

    async def update(self, batches):
        return [self._learner.update(batches[0])]

    async def publish(self):
        return self._weights


@pytest.fixture
def real_lines(fake_run, fakes, tiny_model_path):
    """The lines of two steps on a real learner."""

    def lines(name, *overrides):
        run = fake_run("reduction=sequence_mean", *overrides, folder=name)
        config = run.config
        learner = Learner(
            config=config.learner,
            model=replace(config.model, path=str(tiny_model_path), max_length=64),
            objective=config.objective,
            terms=config.terms,
            temperature=config.rollout.temperature,
            total_updates=8,
        )
        run.learner = OneRank(learner, fakes["weights"](0, np.zeros(8)))
        reporter = Reporter(config, run.lines)
        try:
            for step in train(run, run.trainer(), 1, 2):
                reporter.step(step)
        finally:
            learner.close()
        return run.lines.lines

    return lines


def test_packing_changes_no_metric(real_lines):
    """Every metric of every step is the same for any microbatch budget, to rounding."""
    whole = real_lines("whole", "learner.microbatch_tokens=4096")
    cut = real_lines("cut", "learner.microbatch_tokens=24")
    unstable = ("time/", "throughput/", "mismatch/", "sync/")
    for step in (1, 2):
        assert whole[step]["update/count"] > 0
        for key, value in whole[step].items():
            if not key.startswith(unstable) and isinstance(value, float) and not math.isnan(value):
                assert cut[step][key] == pytest.approx(value, rel=1e-3, abs=2e-5), key
