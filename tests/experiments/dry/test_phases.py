"""How long phases last, by hand: who is finished leaves a slot empty until the next phase."""

from itertools import cycle, repeat

import numpy as np
import pytest

from isentropic.controller.drawing.flight import Rules
from isentropic.experiments.dry.phases import go_through, whole


@pytest.mark.parametrize(
    ("slots", "lasted"),
    [
        pytest.param(2, 3 * 3, id="as long as the longest of each step"),
        pytest.param(1, 3 * 4, id="one slot writes all tokens"),
    ],
)
def test_whole_answers(slots, lasted):
    found = go_through(
        cycle([1, 3]), whole(per_step=2), group_size=1, segment=None, slots=slots, steps=3
    )
    assert (found.tokens, found.lasted) == (12, lasted)


def test_a_phase_in_segments():
    """One prompt per step, two in flight, a slot for each; segments of two tokens.

    Each step begins a prompt of 1 token, which leaves a slot empty for the rest of its segment. The
    first two take it; in the third the 6 tokens of the first prompt are done too.
    """
    rules = Rules(per_step=1, in_flight=2, max_lag=9, delay=8)
    lengths = iter([6, 1, 1, 1, 6, 6])
    found = go_through(lengths, rules, group_size=1, segment=2, slots=2, steps=3)
    assert (found.tokens, found.lasted) == (6 + 1 + 1 + 1, 3 * 2)
    assert found.idle(2) == pytest.approx(1 - 9 / 12)


def test_a_due_prompt_goes_on_alone():
    rules = Rules(per_step=1, in_flight=2, max_lag=1, delay=0)
    found = go_through(iter([6, 1]), rules, group_size=1, segment=2, slots=2, steps=1)
    assert (found.tokens, found.lasted) == (7, 6)


def test_a_step_is_full_with_whole_groups():
    """A group of two is as long as its longer answer, and its shorter one leaves a slot empty."""
    rules = Rules(per_step=1, in_flight=1, max_lag=0, delay=0)
    found = go_through(repeat(3), rules, group_size=2, segment=2, slots=2, steps=4)
    assert (found.tokens, found.lasted) == (24, 4 * 3)


def test_the_first_steps_may_be_left_out():
    found = go_through(
        iter([5, 1, 1]), whole(per_step=1), group_size=1, segment=None, slots=1, steps=3, skipped=1
    )
    assert (found.tokens, found.lasted) == (2, 2)


def test_the_scheme_of_a_large_run():
    """32 prompts of 16 answers, 6,000 tokens on average and 16,384 at most, in 512 slots."""
    rng = np.random.default_rng(0)
    drawn = rng.lognormal(np.log(6000) - 0.7**2 / 2, 0.7, size=60000)
    lengths = np.clip(drawn, 1, 16384).astype(int)

    def idle(rules, segment):
        found = go_through(
            iter(lengths), rules, group_size=16, segment=segment, slots=512, steps=30, skipped=5
        )
        return found.idle(512)

    assert idle(whole(per_step=32), None) == pytest.approx(0.65, abs=0.02)
    twice = Rules(per_step=32, in_flight=64, max_lag=4, delay=3)
    assert idle(twice, 2000) == pytest.approx(0.39, abs=0.04)
