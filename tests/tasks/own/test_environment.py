"""Games repeat under their seeds, are played again from their turns, and touch nothing else."""

import pickle
import random

import numpy as np
import pytest

from isentropic.tasks.own import environment
from isentropic.tasks.own.environment import GAMES, EnvironmentConfig, EnvironmentTask

pytest.importorskip("textarena", reason="the extra `environment` is not installed")


def task(**changes):
    values = dict(
        name="environment", game="GuessTheNumber-v0", params={"max_number": 8}, train_size=40,
        eval_size=20, seed=0, max_turns=6, reward_right=1.0, system_prompt=None,
        on_long_prompt="refuse",
    )  # fmt: skip
    return EnvironmentTask(EnvironmentConfig(**values | changes))


def halved(game, prompt):
    """The turns of a player who halves what is left."""
    low, high, turns = 1, 8, []
    while True:
        turns.append(f"I guess [{(low + high) // 2}]")
        said = game.reply(prompt, turns)
        if said is None:
            return turns
        guess = (low + high) // 2
        low, high = (guess + 1, high) if said.endswith("higher.") else (low, guess - 1)


def test_a_good_player_wins_each_game_and_the_games_differ():
    game = task()
    played = [halved(game, game.prompt("train", index)) for index in range(20)]
    assert {game.grade(game.prompt("train", i), turns) for i, turns in enumerate(played)} == {1.0}
    assert {len(turns) for turns in played} >= {1, 2, 3}


def test_an_episode_is_rebuilt_from_its_turns_alone_whatever_was_played_between():
    """A worker, a resume and a replay have the prompt and the turns of the ledger, no more."""
    first = task()
    prompt = first.prompt("eval", 3)
    turns = halved(first, prompt)
    replies = [first.reply(prompt, turns[:n]) for n in range(1, len(turns) + 1)]
    again = pickle.loads(pickle.dumps(task(seed=7)))  # another task of other games
    again.prompt("train", 5)
    assert [again.reply(prompt, turns[:n]) for n in range(1, len(turns) + 1)] == replies
    assert again.grade(prompt, turns) == 1.0


def test_the_game_tells_only_what_is_new_and_brackets_may_be_left_out():
    game = task(params={"max_number": 2})
    prompt = game.prompt("train", 0)
    assert prompt.messages[0]["content"].endswith("Enter your guess.")
    said = [game.reply(prompt, [turn]) for turn in ("1", "2")]
    assert sorted(map(str, said)) in (
        ["None", "The target number is higher."],
        ["None", "The target number is lower."],
    )
    assert game.grade(prompt, ["[1]"]) + game.grade(prompt, ["[2]"]) == 1.0, "one of them is it"


def test_what_is_not_over_is_unpaid_and_two_bad_moves_end_a_game():
    game = task()
    prompt = game.prompt("train", 0)
    assert "invalid move" in game.reply(prompt, ["no number"])
    assert game.grade(prompt, ["no number"]) == 0.0
    assert game.reply(prompt, ["no number", "no number"]) is None


def test_random_numbers_of_the_run_are_left_alone():
    states = random.getstate(), np.random.get_state()[1].tolist()
    game = task(game="FrozenLake-v0", params={})
    game.reply(game.prompt("train", 0), ["[up]"])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states


@pytest.mark.parametrize("name", GAMES)
def test_every_game_starts_and_repeats(name):
    first, second = (task(game=name, params={}).prompt("train", 1) for _ in range(2))
    assert first == second and len(first.messages[0]["content"]) > 100


def test_what_is_no_game_no_parameter_or_another_version_is_refused(monkeypatch):
    with pytest.raises(
        ValueError, match=r"task.game must be one of.*Did you mean 'GuessTheNumber-v0'"
    ):
        task(game="GuessTheNumber")
    with pytest.raises(ValueError, match=r"does not start with task.params={'most': 8}: TypeError"):
        task(params={"most": 8})
    monkeypatch.setattr(environment, "CHECKED", "0.0.1")
    with pytest.raises(ValueError, match=r"were checked in version 0\.0\.1"):
        task()
