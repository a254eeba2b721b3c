"""Columns are read from samples, laid end to end, and cut again."""

from dataclasses import replace

import numpy as np
import pytest

from isentropic.columns import COLUMNS, WEIGHTS, columns, cut, has, join
from isentropic.objectives.loss.needs import ALWAYS
from isentropic.objectives.loss.objective import TOKEN_FIELDS
from isentropic.records import Prompt, Rollout, RolloutKey, Sample, TokenScores


def floats(*values):
    return np.array(values, dtype=np.float32)


def sample(*, reward=0.5, origin="policy", reference=None):
    rollout = Rollout(
        key=RolloutKey("train", 0, 0, 0),
        prompt=Prompt(prompt_id="p", messages=(), answer=""),
        token_ids=np.arange(4),
        turns=((2, 4),),
        rollout_logprob=floats(-1, -2),
        temperature=1.0,
        seed=0,
        finish_reason="stop",
        step=1,
        policy_version=0,
        origin=origin,
        reward=reward,
    )
    old = TokenScores(
        logprob=floats(-3, -4),
        entropy=floats(5, 6),
        sensitivity=floats(7, 8),
        sum_p2=floats(9, 10),
        sum_s2=floats(15, 16),
        ref_logprob=reference,
    )
    return Sample(rollout=rollout, old=old, advantage=floats(11, 12), token_weight=floats(13, 14))


def test_each_column_is_read_from_its_place():
    read = columns([sample(reference=floats(-5, -6), origin="teacher:book")])
    assert list(read) == list(COLUMNS)
    assert {name: column.tolist() for name, column in read.items()} == {
        "rollout_logprob": [-1, -2],
        "advantage": [11, 12],
        "token_weight": [13, 14],
        "old_logprob": [-3, -4],
        "old_entropy": [5, 6],
        "sensitivity": [7, 8],
        "sum_p2": [9, 10],
        "sum_s2": [15, 16],
        "ref_logprob": [-5, -6],
        "reward": [0.5, 0.5],
        "is_teacher": [True, True],
    }
    assert all(read[name].dtype == column.dtype for name, column in COLUMNS.items())


def test_a_sample_without_reference_scores_lacks_that_column():
    assert columns([sample()]).keys() == COLUMNS.keys() - {"ref_logprob"}


def test_samples_lie_end_to_end_and_share_their_columns():
    first, second = sample(reward=0.1), sample(reference=floats(-5, -6), origin="teacher:book")
    assert "ref_logprob" in has(second) and "ref_logprob" not in has(first)
    read = columns([first, second])
    assert "ref_logprob" not in read
    assert read["old_logprob"].tolist() == [-3, -4, -3, -4]
    assert read["is_teacher"].tolist() == [False, False, True, True]
    wide = columns([first, second], floats=np.float64)
    # The reward is a float32 everywhere: what the loss saw is what the metrics see.
    assert wide["reward"].tolist() == [float(np.float32(0.1))] * 2 + [0.5] * 2
    assert wide["is_teacher"].dtype == bool and wide["advantage"].dtype == np.float64


def test_a_column_of_another_length_is_a_fault():
    with pytest.raises(AssertionError, match=r"has 2 response tokens, but 3 of advantage"):
        columns([replace(sample(), advantage=floats(1, 2, 3))])


def test_an_objective_can_name_every_column_but_those_applied_outside_of_it():
    outside, from_model = {"advantage", "token_weight"}, {"logprob", "entropy"}
    assert set(TOKEN_FIELDS) == (COLUMNS.keys() - outside) | from_model | {"sequence_id"}
    assert COLUMNS.keys() | WEIGHTS.keys() | from_model >= ALWAYS


@pytest.mark.parametrize(
    ("reward", "full", "counts"),
    [
        (1.0, 1.0, True),
        (0.5, 1.0, False),
        (float("nan"), 1.0, False),
        (1.0, 5.0, False),
        (5.0, 5.0, True),
        (0.0, 0.0, True),
    ],
)
def test_the_nll_counts_what_the_task_pays_in_full(reward, full, counts):
    one = sample(reward=reward)
    prompt = replace(one.rollout.prompt, reward_right=full)
    one = replace(one, rollout=replace(one.rollout, prompt=prompt))
    assert WEIGHTS["nll_weight"](one) is counts
    assert WEIGHTS["loss_weight"](one) is True


def test_cut_undoes_join():
    parts = [floats(1), floats(), floats(2, 3)]
    joined = join(parts)
    assert joined.tolist() == [1, 2, 3]
    assert [part.tolist() for part in cut(joined, [1, 0, 2])] == [[1], [], [2, 3]]
    assert join([], np.int64).dtype == np.int64 and cut(join([]), []) == []
