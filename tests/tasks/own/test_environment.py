"""Games repeat under their seeds, are played again from their turns, and touch nothing else."""

import pickle
import random
import time
from collections import deque
from itertools import combinations, product

import numpy as np
import pytest

from isentropic.seeds import global_generators
from isentropic.tasks.own import environment
from isentropic.tasks.own.environment import GAMES, EnvironmentConfig, EnvironmentTask

textarena = pytest.importorskip("textarena", reason="the extra `environment` is not installed")


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


def opened(game, prompt, *turns):
    """The game itself, with the state that a player does not see."""
    seed = int(prompt.metadata)
    with global_generators(seed):
        found = textarena.make(f"{game.config.game}-raw", **game.config.params)
        found.reset(num_players=1, seed=seed)
        for turn in turns:
            found.step(turn)
    return getattr(found, "env", found)


def slide(game, prompt):
    """2048: any move that the board takes."""
    turns = []
    while game.reply(prompt, turns) is not None:
        moves = ("[down]", "[left]", "[right]", "[up]")
        free = [m for m in moves if "invalid move" not in (game.reply(prompt, [*turns, m]) or "")]
        turns.append(free[0])
    return turns


def draw_cards(game, prompt):
    for hits in range(6):
        turns = ["[hit]"] * hits + ["[stand]"]
        if game.grade(prompt, turns) == 1.0:
            return turns
    return turns


def walk(game, prompt):
    """FrozenLake: the shortest way around the holes."""
    grid = opened(game, prompt).state.game_state["grid"]
    steps = {"[up]": (-1, 0), "[down]": (1, 0), "[left]": (0, -1), "[right]": (0, 1)}
    ways = deque([((0, 0), [])])
    seen = {(0, 0)}
    while ways:
        (row, column), turns = ways.popleft()
        if grid[row][column] == "G":
            return turns
        for name, (down, right) in steps.items():
            place = (row + down, column + right)
            inside = all(0 <= x < len(grid) for x in place)
            if inside and place not in seen and grid[place[0]][place[1]] != "H":
                seen.add(place)
                ways.append((place, [*turns, name]))


def press(game, prompt):
    """LightsOut on 3 x 3: one of 512 sets of lights."""
    lights = list(product(range(3), repeat=2))
    for count in range(1, 10):
        for chosen in combinations(lights, count):
            turns = [f"[{row} {column}]" for row, column in chosen]
            if not any(map(any, state(game, prompt, *turns)["grid"])):
                return turns


def reveal(game, prompt):
    """Minesweeper: every cell without a mine that is not open yet."""
    turns = ["[0 0]"]
    while not (found := opened(game, prompt, *turns)).state.done:
        cells = product(range(found.rows), range(found.cols))
        row, column = next(
            (r, c) for r, c in cells if found.grid[r][c] != -1 and not found.revealed[r][c]
        )
        turns.append(f"[{row} {column}]")
    return turns


def jump(game, prompt):
    """PegJump: depth first."""
    found, dead = opened(game, prompt), set()

    def ways(board):
        if board.count(True) == 1:
            return []
        for start, over, end in found.ALLOWED_MOVES:
            if board[start] and board[over] and not board[end]:
                after = list(board)
                after[start], after[over], after[end] = False, False, True
                if tuple(after) not in dead and (rest := ways(after)) is not None:
                    return [f"[{start} {end}]", *rest]
        dead.add(tuple(board))
        return None

    return ways(found.state.game_state["board"])


def accept(game, prompt):
    draws = opened(game, prompt).state.game_state["draws"]
    return ["[continue]"] * draws.index(max(draws)) + ["[accept]"]


def fill(game, prompt):
    found = opened(game, prompt)
    empty = [cell for cell in product(range(9), repeat=2) if not found.game_board[cell[0]][cell[1]]]
    return [f"[{row + 1} {column + 1} {found.full_grid[row][column]}]" for row, column in empty]


def tower(disks, start, spare, end):
    if not disks:
        return []
    first, last = tower(disks - 1, start, end, spare), tower(disks - 1, spare, start, end)
    return [*first, f"[{start} {end}]", *last]


def state(game, prompt, *turns):
    return opened(game, prompt, *turns).state.game_state


WINS = {  # game: (its parameters, how it is won)
    "2048-v0": ({"target_tile": 16}, slide),
    "Blackjack-v0": ({"num_hands": 1}, draw_cards),
    "FrozenLake-v0": ({}, walk),
    "GuessTheNumber-v0": ({}, lambda game, prompt: [f"[{state(game, prompt)['game_number']}]"]),
    "LightsOut-v0": ({"size": 3}, press),
    "Mastermind-v0": (
        {},
        lambda game, prompt: [f"[{' '.join(map(str, state(game, prompt)['secret_code']))}]"],
    ),
    "Minesweeper-v0": ({}, reveal),
    "PegJump-v0": ({}, jump),
    "Secretary-v0": ({}, accept),
    "Sudoku-v0": ({}, fill),
    "TowerOfHanoi-v0": ({}, lambda game, prompt: tower(3, "A", "B", "C")),
}


@pytest.mark.parametrize("name", GAMES)
def test_a_win_of_every_game_is_paid_1_and_nothing_else_is_paid_more(name):
    params, win = WINS[name]
    game = task(game=name, params=params, max_turns=200)
    # Cards may be such that nobody wins.
    prompts = [game.prompt("train", index) for index in range(8 if name == "Blackjack-v0" else 1)]
    wins = [(prompt, turns) for prompt in prompts if (turns := win(game, prompt))]
    assert 1.0 in [game.grade(prompt, turns) for prompt, turns in wins]
    bad = ["no move", "no move"]
    assert all(game.grade(prompt, [*turns[:-1], *bad]) == 0.0 for prompt, turns in wins)


@pytest.mark.parametrize("first", range(1, 9))
def test_nonsense_after_a_good_guess_is_paid_nothing(first):
    """textarena pays how near the last guess came: more than five honest wrong guesses get."""
    game = task()
    prompt = game.prompt("train", 0)
    assert game.grade(prompt, [f"[{first}]", "x", "x"]) in (0.0, game.grade(prompt, [f"[{first}]"]))


@pytest.mark.parametrize(
    ("name", "turns"),
    [
        pytest.param("LightsOut-v0", ["[0 0]", "[0 1]"] * 10, id="lights that are made worse"),
        pytest.param("Secretary-v0", ["[now]", "[now]"], id="two invalid moves"),
    ],
)
def test_who_loses_is_not_paid_less_than_who_does_not_end_the_game(name, turns):
    game = task(game=name, params={}, max_turns=60)
    for index in range(10):
        prompt = game.prompt("train", index)
        assert game.reply(prompt, turns) is None
        assert game.grade(prompt, turns) >= game.grade(prompt, turns[:1]) == 0.0


@pytest.mark.parametrize(("name", "start"), [("TowerOfHanoi-v0", "[A"), ("PegJump-v0", "[1")])
def test_a_run_of_blanks_takes_no_time(name, start):
    """The games' patterns take seconds for it, in the run's own process."""
    game = task(game=name, params={})
    prompt = game.prompt("train", 0)
    began = time.process_time()
    game.reply(prompt, [start + " " * 20_000])
    assert time.process_time() - began < 0.5


def test_the_end_of_a_long_turn_counts():
    game = task()
    prompt = game.prompt("train", 0)
    assert game.reply(prompt, ["so many words " * 2000 + "[8]"]) == game.reply(prompt, ["[8]"])


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
