"""Who is hard, and what the second wave draws."""

from dataclasses import replace

import pytest

from isentropic.methods.uec_rl.second_wave import SecondWave, is_hard, wave_metrics


def make(**changes):
    fields = {
        "name": "second_wave", "prompts_per_step": 3, "group_size": 2, "temperature": 1.0, "top_p": 0.99,
        "top_k": -1, "explore_size": 4, "explore_temperature": 1.2,
    }  # fmt: skip
    return SecondWave(**(fields | changes))


@pytest.mark.parametrize("temperature", [0.0, 0.001, 2.5, -1.0])
def test_a_temperature_that_the_engine_would_change_or_that_is_greedy(temperature):
    with pytest.raises(ValueError, match=r"uec\.explore_temperature must be >= 0\.01 and <= 2"):
        make(explore_temperature=temperature)
    assert make(explore_temperature=0.01).explore_temperature == 0.01
    assert make(explore_temperature=2.0).explore_temperature == 2.0


def test_hard_is_exactly_the_groups_that_nobody_solved(new):
    rewards = [[0, 0], [0, 1], [1, 1], [0, 0.5], [-1, -1]]
    assert [is_hard(new.group(row)) for row in rewards] == [True, False, False, True, True]


def test_the_task_says_what_solved_means(new):
    """Right pays 0, wrong -1: all zeros are all right there."""
    prompt = replace(new.prompt, reward_right=0.0)
    rewards = [[-1, -1], [-1, 0], [0, 0]]
    groups = [new.group(row, prompt=prompt) for row in rewards]
    assert [is_hard(group) for group in groups] == [True, False, False]
    explored = new.merged(groups[0], new.group([-1, 0], wave=1, prompt=prompt))
    assert wave_metrics([explored])["uec/explore_solved_frac"] == 1.0


def test_second_wave_has_its_own_size_and_temperature_and_hard_prompts_only(new):
    plan = make()
    first = plan.next_wave([])
    assert (first.new_prompts, first.draws, first.group_size, first.temperature) == (3, (), 2, 1.0)
    groups = [new.group(row, draw=draw) for draw, row in ((10, [0, 0]), (11, [1, 1]), (12, [0, 0]))]
    second = plan.next_wave(groups)
    assert (second.new_prompts, second.draws) == (0, (10, 12))
    assert (second.group_size, second.temperature, second.top_p) == (4, 1.2, 0.99)
    explored = [
        new.merged(g, new.group([0, 1, 0, 0], draw=g.draw, wave=1)) if is_hard(g) else g
        for g in groups
    ]
    assert plan.next_wave(explored) is None


def test_nothing_hard_and_size_zero_are_one_wave(new):
    assert make().next_wave([new.group([0, 1])]) is None
    assert make(explore_size=0).next_wave([new.group([0, 0])]) is None


def test_the_second_wave_does_not_change_who_was_hard(new):
    solved = new.merged(new.group([0, 0]), new.group([1, 0, 0, 0], wave=1))
    failed = new.merged(
        new.group([0, 0], draw=1), new.group([0, 0, 0, 0], draw=1, wave=1, finish_reason="length")
    )
    assert wave_metrics([solved, failed, new.group([1, 0], draw=2)]) == {
        "uec/hard_prompts": 2.0,
        "uec/hard_frac": 2 / 3,
        "uec/explored": 8.0,
        "uec/explore_solved_frac": 0.5,
        "uec/explore_reward_mean": 0.125,
        "uec/explore_tokens_mean": 2.0,
        "uec/explore_truncated_frac": 0.5,
    }


def test_one_sample_a_prompt_is_refused():
    with pytest.raises(ValueError, match=r"uec\.explore_size=1"):
        make(explore_size=1)
