"""Weights of tokens, by hand; and that they add up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentropic.objectives.tokens.reductions import REDUCTIONS

LENGTHS = np.array([2, 6, 12, 4])
PACKED = np.array([0, 1, 1, 2])
PROMPTS = np.array([0, 1, 1, 1])


def weights(name, lengths=LENGTHS, prompt_of=None, within="token_mean", **others):
    """Of a reduction by name; without `prompt_of` the first response is a prompt of its own."""
    more = {"within": within} if name == "per_prompt" else {}
    prompt_of = PROMPTS[: len(lengths)] if prompt_of is None else np.array(prompt_of)
    return REDUCTIONS[name](name=name, **more).weights(
        np.asarray(lengths), max_response_tokens=16, prompt_of=prompt_of, **others
    )


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("token_mean", [1 / 24] * 4),
        ("sequence_mean", [1 / 8, 1 / 24, 1 / 48, 1 / 16]),
        ("sequence_sum", [1 / 4] * 4),
        ("fixed_length", [1 / 64] * 4),
        ("microbatch_mean", [1 / 8, 1 / 36, 1 / 36, 1 / 16]),
        # Half of the loss for each of two prompts, of 2 and of 22 tokens.
        ("per_prompt", [1 / 4, 1 / 44, 1 / 44, 1 / 44]),
    ],
)
def test_weights(name, wanted):
    got = weights(name, microbatch_of=PACKED)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, wanted, rtol=1e-15)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("token_mean", [1 / 8, 1 / 8, 0, 0]),
        ("sequence_mean", [1 / 4, 1 / 12, 0, 0]),
        ("sequence_sum", [1 / 2, 1 / 2, 0, 0]),
        ("fixed_length", [1 / 32, 1 / 32, 0, 0]),
        # The mean over the chosen tokens of a microbatch, times its share of all responses: 1/2 * 1/4, 1/6 * 2/4.
        ("microbatch_mean", [1 / 8, 1 / 12, 0, 0]),
        ("per_prompt", [1 / 4, 1 / 12, 0, 0]),
    ],
)
def test_mean_over_the_chosen_alone(name, wanted):
    chosen = np.array([True, True, False, False])
    np.testing.assert_allclose(
        weights(name, microbatch_of=PACKED, chosen=chosen), wanted, rtol=1e-15
    )


@pytest.mark.parametrize("name", REDUCTIONS)
def test_nothing_chosen_and_nothing_there(name):
    assert weights(name, microbatch_of=PACKED, chosen=np.zeros(4, dtype=bool)).tolist() == [0.0] * 4
    assert weights(name, [], microbatch_of=np.zeros(0, dtype=np.int64)).tolist() == []


@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_response_without_tokens_counts_nowhere(name):
    full = weights(name, [3, 5], microbatch_of=np.array([0, 1]))
    assert weights(name, [3, 0, 5], microbatch_of=np.array([0, 0, 1])).tolist() == [
        full[0],
        0.0,
        full[1],
    ]


@pytest.mark.parametrize(
    ("within", "wanted"),
    [
        # |S| is 1 and 3: a response of the second prompt has 1/2 * 1/3, and its tokens share that.
        pytest.param("sequence_mean", [1 / 4, 1 / 36, 1 / 72, 1 / 24], id="Eq. 5, token means"),
        pytest.param("sequence_sum", [1 / 2, 1 / 6, 1 / 6, 1 / 6], id="Eq. 5, token sums"),
        pytest.param("fixed_length", [1 / 32, 1 / 96, 1 / 96, 1 / 96], id="constant length"),
    ],
)
def test_within_a_prompt(within, wanted):
    np.testing.assert_allclose(weights("per_prompt", within=within), wanted, rtol=1e-15)


def test_a_prompt_without_anything_chosen_is_not_in_the_mean():
    """Of two prompts only the second has a chosen response: all of the loss is its."""
    chosen = np.array([False, True, False, False])
    assert weights("per_prompt", chosen=chosen).tolist() == [0, 1 / 6, 0, 0]


def test_prompts_of_equal_lengths_and_numbers_weigh_as_over_the_minibatch():
    for within in ("token_mean", "sequence_mean", "sequence_sum", "fixed_length"):
        by_prompt = weights("per_prompt", [3] * 4, [7, 2, 2, 7], within)
        np.testing.assert_allclose(by_prompt, weights(within, [3] * 4), rtol=1e-15)


def test_a_reduction_within_a_prompt_that_needs_more_than_lengths():
    with pytest.raises(ValueError, match=r"reduction.within must be one of token_mean, .*microb"):
        weights("per_prompt", within="microbatch_mean")
    with pytest.raises(ValueError, match="give prompt_of"):
        REDUCTIONS["per_prompt"](name="per_prompt", within="token_mean").weights(
            LENGTHS, max_response_tokens=16
        )


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 4))
def test_means_weigh_1_in_all(lengths, microbatches):
    packed = np.arange(len(lengths)) % microbatches
    for name in ("token_mean", "sequence_mean", "microbatch_mean", "per_prompt"):
        got = weights(name, lengths, packed, microbatch_of=packed)
        assert np.dot(got, lengths) == pytest.approx(1.0)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.data())
def test_packing_changes_nothing_but_the_microbatch_mean(lengths, data):
    packings = [np.array(data.draw(st.permutations(range(len(lengths))))) for _ in range(2)]
    for name in ("token_mean", "sequence_mean", "fixed_length", "per_prompt"):
        first, second = (
            weights(name, lengths, np.arange(len(lengths)) % 3, microbatch_of=packing)
            for packing in packings
        )
        assert np.array_equal(first, second)


def test_microbatch_mean_needs_the_packing():
    with pytest.raises(ValueError, match="give microbatch_of"):
        weights("microbatch_mean")
