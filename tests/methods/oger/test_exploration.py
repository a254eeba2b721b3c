"""Acceptance tests B.9 of OGER: the bonus, the hybrid group, and the base method without it."""

from dataclasses import replace

import numpy as np
import pytest

from isentropic.methods.advantages import Normalised
from isentropic.methods.oger.exploration import (
    Exploration,
    ExplorationConfig,
    confidence_entropy,
    cosines,
    divergence,
    exploration_reward,
    most_teacher_like,
)
from isentropic.methods.oger.offline_set import OfflineSet
from isentropic.methods.oger.teachers import TeacherResponse, TeacherTable
from isentropic.methods.shaping import NoShaping

SIMILARITY = np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4], [0.95, 0.9, 0.85], [0.7, 0.65, 0.6]])
ENTROPY, REWARD = np.array([0.1, 0.3, 0.2, 0.5]), np.array([1.0, 1.0, 0.0, 0.0])
TOTALS = [1.180967, 1.370409, 1.0, 0.0]
END = 0
UNBIASED = Normalised(name="normalised", std="unbiased")
POPULATION = Normalised(name="normalised", std="population")


class Chat:
    """Token i is the digit i; 0 ends."""

    eos_token_id = END

    class tokenizer:
        @staticmethod
        def encode(text, add_special_tokens):
            return [int(digit) for digit in text]

    def turn_texts(self, rollout):
        return [
            "".join(str(t) for t in rollout.token_ids[a:b] if t != END) for a, b in rollout.turns
        ]


class Encoder:
    """Text '1', '2', ... has the cosine with every teacher that stands for it in `similar`; teachers are '9...'."""

    def __init__(self, similar):
        self.similar = similar

    def encode(self, texts):
        cosine = np.array(
            [1.0 if text[0] == "9" else self.similar[int(text[0]) - 1] for text in texts]
        )
        return np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1)


class Task:
    isolated, max_turns = False, 1

    def grade(self, prompt, turns):
        return float(turns[0].startswith("9"))


def config(**changes) -> ExplorationConfig:
    fields = {
        "name": "exploration", "coef": 1.0, "clamp": True, "entropy": "last", "encoder": "tfidf", "teachers": None,
        "cache": None, "require_correct": True, "ratio": "old_policy", "shape": 0.1, "offline_min_adv": None,
        "max_response_tokens": 8, "window": 64, "seed": 3,
    }  # fmt: skip
    return ExplorationConfig(**(fields | changes))


def make(texts=("9",), similar=(0.8, 0.5, 0.9, 0.65), **changes) -> Exploration:
    rows = [
        TeacherResponse(prompt_id="p", teacher=f"t{i}", text=text, reward=1.0)
        for i, text in enumerate(texts)
    ]
    settings = config(**changes)
    offline = OfflineSet(
        TeacherTable(rows),
        task=Task(),
        chat=Chat(),
        require_correct=True,
        max_response_tokens=8,
        window=64,
        seed=3,
    )
    return Exploration(settings, offline, Encoder(similar))


def worked(new, rewards=REWARD, draw=0):
    """The group of the worked example: response i is the text i + 1."""
    group = new.group(rewards, draw=draw)
    rollouts = [
        replace(r, token_ids=np.array([1, 2, i + 1, END]), shaped_reward=float("nan"))
        for i, r in enumerate(group.rollouts)
    ]
    return replace(group, rollouts=tuple(rollouts))


def scored(new, exploration, groups, entropy=ENTROPY):
    table = {
        r.key: new.scores(2, entropy=[9.0, h])
        for g in groups
        for r, h in zip(g.rollouts, entropy, strict=True)
    }
    return table | {
        t.key: new.scores(t.num_response_tokens, entropy=7.0)
        for t in exploration.candidates(groups)
    }


def shape(new, exploration, group):
    (shaped,), metrics = exploration.shape([group], scored(new, exploration, [group]))
    return shaped, metrics


def test_a_wrong_answer_gets_no_bonus_and_no_fine(new):
    """Right pays 2, wrong -1: the bonus is D exp(-H) 2 of the right ones, and nothing of the wrong."""
    prompt = replace(new.prompt, reward_right=2.0)
    group = worked(new, rewards=[2.0, -1.0, 2.0, -1.0])
    rollouts = tuple(replace(rollout, prompt=prompt) for rollout in group.rollouts)
    shaped, _ = shape(new, make(), replace(group, rollouts=rollouts))
    gap = divergence(np.array([[0.8], [0.5], [0.9], [0.65]]), clamp=True)
    wanted = np.array([2.0, 0.0, 2.0, 0.0]) * gap * np.exp(-np.asarray(ENTROPY))
    given = [r.shaped_reward - r.reward for r in shaped.rollouts]
    np.testing.assert_allclose(given, np.where([1, 1, 0, 1], wanted, 0.0), atol=1e-6)


def test_b9_worked_example():
    gap = divergence(SIMILARITY, clamp=True)
    np.testing.assert_allclose(gap, [0.2, 0.5, 0.1, 0.35], atol=1e-12)
    assert most_teacher_like(gap) == 2
    totals = REWARD + exploration_reward(REWARD, gap, ENTROPY, coef=1.0)
    totals[2] = 1.0  # a teacher, right
    np.testing.assert_allclose(totals, TOTALS, atol=1e-6)
    unbiased = [0.479813, 0.789909, 0.183588, -1.453310]
    np.testing.assert_allclose(
        UNBIASED(totals), unbiased, atol=5e-6
    )  # epsilon 1e-6 in the denominator
    np.testing.assert_allclose(
        POPULATION(totals), [0.554040, 0.912108, 0.211989, -1.678137], atol=5e-6
    )
    np.testing.assert_allclose(
        totals - totals.mean(), [0.293123, 0.482565, 0.112156, -0.887844], atol=1e-6
    )


def test_b9_worked_example_through_the_slot(new):
    shaped, metrics = shape(new, make(), worked(new))
    assert [r.shaped_reward for r in shaped.rollouts] == pytest.approx(TOTALS, abs=1e-6)
    assert [r.origin for r in shaped.rollouts] == ["policy", "policy", "teacher:t0", "policy"]
    assert [r.reward for r in shaped.rollouts] == [1, 1, 1, 0]  # the task's, untouched
    assert metrics["oger/divergence_mean"] == pytest.approx(0.2875)
    assert metrics["oger/confidence_mean"] == pytest.approx(np.exp(-ENTROPY).mean())
    assert metrics["oger/bonus_mean"] == pytest.approx((0.180967 + 0.370409) / 4, abs=1e-6)
    assert metrics["oger/online_solved"] == 0.5
    assert metrics["oger/similarity/t0"] == pytest.approx(0.7125)
    assert metrics["oger/teacher_groups_frac"] == 1.0
    assert metrics["oger/online_prob_mean"] == pytest.approx(np.exp(-0.5))


def test_b9_wrong_responses_get_no_bonus(new):
    shaped, _ = shape(new, make(), worked(new, rewards=[0, 0, 0, 0]))
    assert [r.shaped_reward for r in shaped.rollouts if not r.is_teacher] == [0, 0, 0]


def test_b9_duplicate_of_the_only_teacher_diverges_by_nothing():
    vectors = np.random.default_rng(0).normal(size=(1, 32))
    assert divergence(cosines(vectors, 3 * vectors), clamp=True)[0] == pytest.approx(0, abs=1e-12)


def test_b9_identical_teachers_count_once(new):
    one, _ = shape(new, make(), worked(new))
    many, _ = shape(new, make(texts=("9", "9", "9")), worked(new))
    assert [r.shaped_reward for r in many.rollouts] == [r.shaped_reward for r in one.rollouts]


def test_b9_a_teacher_never_gets_a_bonus_and_the_group_keeps_its_size(new):
    for rewards in ([1, 1, 1, 1], [1, 0, 0, 0]):
        shaped, _ = shape(new, make(coef=5.0), worked(new, rewards))
        (teacher,) = [r for r in shaped.rollouts if r.is_teacher]
        assert teacher.shaped_reward == teacher.reward == 1.0
        assert len(shaped.rollouts) == 4
        assert np.isnan(teacher.rollout_logprob).all()
        assert teacher.token_ids.tolist() == [1, 2, 9, END]
        assert teacher.turns == ((2, 4),)


@pytest.mark.parametrize("coef", [0.0, 1.0])
def test_b9_without_teachers_it_is_the_base_method(coef, new):
    groups = [worked(new), worked(new, [0, 1, 0, 1], draw=1)]
    off = Exploration(config(coef=coef))
    assert off.candidates(groups) == []
    for got, base in zip(
        off.shape(groups, {})[0], NoShaping(name="none").shape(groups, {})[0], strict=True
    ):
        assert [r.shaped_reward for r in got.rollouts] == [r.shaped_reward for r in base.rollouts]
        assert [r.key for r in got.rollouts] == [r.key for r in base.rollouts]


def test_b9_the_entropy_factor_is_a_constant():
    """It goes into a reward as a plain float: nothing there can carry a gradient."""
    bonus = exploration_reward(np.array([1.0]), np.array([0.5]), np.array([0.0]), coef=2.0)
    assert type(float(bonus[0])) is float
    assert bonus[0] == 1.0


def test_confidence_statistics():
    entropy = np.array([3.0, 2.0, 1.0], dtype=np.float32)
    assert [confidence_entropy(entropy, name) for name in ("last", "mean", "tail:2")] == [
        1.0,
        2.0,
        1.5,
    ]
    assert confidence_entropy(entropy, "tail:9") == 2.0


def test_ties_go_to_the_lowest_index():
    assert most_teacher_like(np.array([0.5, 0.2 + 1e-14, 0.2])) == 1


def test_candidates_are_seeded_unique_and_those_of_shape(new):
    exploration, groups = (
        make(texts=("91", "92", "93")),
        [worked(new, draw=draw) for draw in range(30)],
    )
    teachers = exploration.candidates(groups)
    keys = [t.key for t in teachers] + [r.key for g in groups for r in g.rollouts]
    assert len(set(keys)) == len(keys)
    assert [t.origin for t in teachers] == [
        t.origin for t in make(texts=("91", "92", "93")).candidates(groups[::-1])
    ][::-1]
    assert {t.origin for t in teachers} == {"teacher:t0", "teacher:t1", "teacher:t2"}
    shaped, _ = exploration.shape(groups, scored(new, exploration, groups))
    joined = [r for g in shaped for r in g.rollouts if r.is_teacher]
    assert [r.key for r in joined] == [t.key for t in teachers]


def test_a_teacher_joins_the_first_wave_alone(new):
    """The later wave gets the bonus, and nobody of it leaves."""
    first = worked(new, [0, 0, 0, 0])
    second = replace(new.rollout(wave=1, reward=1.0), token_ids=np.array([1, 2, 3, END]))
    group = replace(first, rollouts=(*first.rollouts, second))
    exploration = make()
    table = scored(new, exploration, [first]) | {second.key: new.scores(2, entropy=0.0)}
    (shaped,), _ = exploration.shape([group], table)
    assert len(shaped.wave(0)) == 4
    assert [r.shaped_reward for r in shaped.wave(1)] == [
        pytest.approx(1.1)
    ]  # D = 0.1, confidence 1


def test_a_bound_on_the_teachers_advantage(new):
    shaped, _ = shape(new, make(), worked(new, [1, 1, 1, 1]))
    values = UNBIASED(np.array([r.shaped_reward for r in shaped.rollouts]))
    advantages = {r.key: float(a) for r, a in zip(shaped.rollouts, values, strict=True)}
    (teacher,) = [r.key for r in shaped.rollouts if r.is_teacher]
    assert (
        min(advantages.values()) == advantages[teacher] < 0
    )  # all right: the teacher is the lowest
    plain, metrics = make().adjust([shaped], advantages)
    assert plain == advantages
    assert metrics["oger/offline_advantage_negative_frac"] == 1.0
    bounded, metrics = make(offline_min_adv=0.0).adjust([shaped], advantages)
    assert bounded == advantages | {teacher: 0.0}
    assert metrics["oger/offline_clamped_frac"] == 1.0


def test_negative_cosines_are_clamped():
    assert divergence(np.array([[-0.5]]), clamp=True).tolist() == [1.0]
    assert divergence(np.array([[-0.5]]), clamp=False).tolist() == [1.5]


@pytest.mark.parametrize(
    ("key", "value"),
    [("entropy", "tail:0"), ("encoder", "tfid"), ("ratio", "luffy"), ("coef", -1.0)],
)
def test_bad_values_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=r"oger\.(offline\.)?" + key):
        config(**{key: value})
