"""The stages of a method on small groups: what is selected, in which order, and the fate of each rollout."""

from collections import Counter

import numpy as np
import pytest

from isentropic.controller.method import Method
from isentropic.methods.fates import FATES
from isentropic.methods.oger.teachers import TeacherResponse, write_teachers
from isentropic.metrics.step_metrics import fate_metrics
from isentropic.records import Group, Rollout, RolloutKey, TokenScores

RIGHT, WRONG = (4, 1, 1, 7), (4, 2, 3, 7)  # the fake task wants ones; 7 ends a response


@pytest.fixture
def group(fakes):
    """`group(draw, rewards, step, wave)`: one response of four tokens per reward."""

    def make(draw, rewards, step=1, wave=0, finish_reason="stop"):
        prompt = fakes["task"]().prompt("train", draw % 20)
        rollouts = tuple(
            Rollout(
                key=RolloutKey("train", draw, wave, sample),
                prompt=prompt,
                token_ids=np.array([0, 0, 0, *(RIGHT if reward else WRONG)]),
                turns=((3, 7),),
                rollout_logprob=np.full(4, -1.0, dtype=np.float32),
                temperature=1.0,
                seed=0,
                finish_reason=finish_reason,
                step=step,
                policy_version=0,
                reward=float(reward),
            )
            for sample, reward in enumerate(rewards)
        )
        return Group(draw=draw, prompt=prompt, rollouts=rollouts)

    return make


def scored(rollouts):
    values = np.full(4, 0.5, dtype=np.float32)
    return {
        rollout.key: TokenScores(
            logprob=np.full(rollout.num_response_tokens, -1.0, dtype=np.float32),
            entropy=values,
            sensitivity=values,
            sum_p2=values,
        )
        for rollout in rollouts
    }


def rollouts_of(groups):
    return [rollout for group in groups for rollout in group.rollouts]


def run_step(method, step, groups):
    """One step without a learner: the samples that would be trained on, and the step's fates."""
    teachers = method.candidates(groups)
    selected = method.select(groups, scored([*rollouts_of(groups), *teachers]), teachers)
    weighed = method.weigh(method.take(step, selected.samples), 0.5)
    method.trained(step, weighed.samples)
    return weighed.samples, method.fates(selected, weighed.samples)


def named(fates):
    """(draw, sample) -> name."""
    return {(key.draw, key.sample): fate.name for key, fate in fates.items()}


def test_samples_are_in_canonical_order_whoever_came_first(make_config, group):
    whole = group(3, [0, 1, 1, 0])
    shuffled = Group(draw=3, prompt=whole.prompt, rollouts=whole.rollouts[::-1])
    selected = Method(make_config()).select([shuffled], scored(whole.rollouts))
    assert [sample.rollout.key for sample in selected.samples] == [r.key for r in whole.rollouts]


def test_flat_groups_and_those_beyond_the_batch(make_config, group):
    """Dynamic sampling of DAPO draws until four groups differ; here the fifth and sixth came with them."""
    method = Method(make_config("method=dapo"))
    groups = [group(draw, [1, 1] if draw == 2 else [1, 0]) for draw in range(7)]
    samples, fates = run_step(method, 1, groups)

    names = named(fates)
    assert len(names) == 14
    assert {draw for (draw, _), name in names.items() if name == "trained"} == {0, 1, 3, 4}
    assert {draw for (draw, _), name in names.items() if name == "flat"} == {2}
    assert {draw for (draw, _), name in names.items() if name == "surplus"} == {5, 6}
    assert [fates[sample.rollout.key].sample for sample in samples] == samples
    assert method.possible_fates == ("trained", "surplus", "flat", "single", "no_response")
    assert fate_metrics(fates.values(), 1, method.possible_fates) == {
        "fate/trained_frac": pytest.approx(8 / 14),
        "fate/surplus_frac": pytest.approx(4 / 14),
        "fate/flat_frac": pytest.approx(2 / 14),
        "fate/single_frac": 0.0,
        "fate/no_response_frac": 0.0,
    }


def test_a_response_that_gave_its_place_to_a_teacher(make_config, group, fakes, tmp_path):
    path = tmp_path / "teachers.jsonl"
    write_teachers(path, [TeacherResponse(prompt_id="train-0", teacher="t", text="11", reward=1.0)])
    method = Method(make_config("method=oger", "oger.cache=null", f"oger.teachers={path}"))
    method.bind(chat=fakes["chat"](), task=fakes["task"](), model_path="")
    _, fates = run_step(method, 1, [group(0, [1, 0, 0]), group(1, [1, 0, 0])])

    names = named(fates)
    assert Counter(names.values()) == {"trained": 6, "replaced": 1}
    assert names[0, 3] == "trained"  # the teacher, whose key comes after those of the group
    (replaced,) = [fate for fate in fates.values() if fate.name == "replaced"]
    assert np.isnan(replaced.rollout.shaped_reward) and replaced.rollout.key.draw == 0
    assert fates[RolloutKey("train", 1, 0, 0)].rollout.shaped_reward == 1.0
    shares = fate_metrics(fates.values(), 1, method.possible_fates)
    assert shares["fate/replaced_frac"] == pytest.approx(1 / 6)  # teachers are not counted
    assert sum(shares.values()) == pytest.approx(1)


UEC = ("method=uec_rl", "terms=none", "uec.explore_size=0")  # units of 4 prompts of 4 samples


def test_the_queue_holds_back_gives_and_loses(make_config, group):
    """12 samples are less than a unit; with 12 more the queue of one unit loses the 8 oldest."""
    method = Method(make_config(*UEC, "uec.queue_units=1"))
    first = [group(draw, [1, 0, 0, 0]) for draw in range(3)]
    second = [group(draw, [1, 0, 0, 0], step=2) for draw in range(3, 6)]
    samples, fates = run_step(method, 1, first)
    assert samples == [] and set(named(fates).values()) == {"queued"}

    samples, fates = run_step(method, 2, second)
    names = named(fates)
    assert {draw for (draw, _), name in names.items() if name == "overflowed"} == {0, 1}
    assert {draw for (draw, _), name in names.items() if name == "trained"} == {2, 3, 4, 5}
    assert len(names) == 24
    assert fates[RolloutKey("train", 2, 0, 0)].sample.source == "queue"
    shares = fate_metrics(fates.values(), 2, method.possible_fates)
    assert shares["fate/trained_frac"] == 1.0  # of step 2's own; the others were drawn for step 1
    assert shares["fate/overflowed_frac"] == 0.0


@pytest.mark.parametrize("units", [1, 2])
def test_every_rollout_has_one_fate_and_what_was_queued_ends_once(units, make_config, group):
    method = Method(make_config(*UEC, f"uec.queue_units={units}"))
    rng, waiting, seen = np.random.default_rng(0), set(), Counter()
    for step in range(1, 30):
        reason = "length" if step % 5 == 0 else "stop"
        groups = [
            group(10 * step + i, rng.integers(0, 2, 4), step=step, finish_reason=reason)
            for i in range(rng.integers(0, 10))
        ]
        _, fates = run_step(method, step, groups)
        drawn = {rollout.key for rollout in rollouts_of(groups)}
        earlier = fates.keys() - drawn
        assert drawn <= fates.keys() and earlier <= waiting
        assert {fates[key].name for key in earlier} <= {"trained", "overflowed"}
        waiting = waiting - earlier | {key for key in drawn if fates[key].name == "queued"}
        assert len(waiting) == method.metrics(step)["uec/queue_size"]
        seen.update(fate.name for fate in fates.values())
    assert {"trained", "queued", "flat", "overlong", "overflowed"} <= seen.keys()
    assert seen.keys() <= set(method.possible_fates) <= FATES.keys()


def test_an_empty_step(make_config):
    method = Method(make_config())
    samples, fates = run_step(method, 1, [])
    assert samples == [] and fates == {}
    assert set(fate_metrics([], 1, method.possible_fates).values()) == {0.0}


@pytest.mark.parametrize(
    ("method", "fates"),
    [
        ("ce_gppo", {"trained", "single", "flat", "no_response"}),
        ("dr_grpo", {"trained", "single", "no_response"}),
        (
            "uec_rl",
            {
                "trained",
                "queued",
                "overflowed",
                "flat",
                "single",
                "below_threshold",
                "wrong_sign",
                "overlong",
                "no_response",
            },
        ),
    ],
)
def test_possible_fates(method, fates, make_config):
    assert set(Method(make_config(f"method={method}")).possible_fates) == fates
