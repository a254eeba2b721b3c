"""Games of `textarena` in several turns: an episode is a game, the reward is the game's own.

    prompt    the rules, as the game tells them
    policy    [5]               without brackets they are put around the whole turn
    game      The target number is higher.
    policy    [8]               ... until the game ends, or `task.max_turns`

Paid is what the game pays, within two bounds: 0 if two invalid moves in a row ended it (textarena pays
how near the last valid move came, which beats honest play that fails), and never below 0, what a game
that is not over is paid: a player must not gain by not losing.

A game keeps its state nowhere but in the turns: each reply plays the game again from its seed. So an
episode of the ledger is graded, resumed and replayed without anything else.
"""

import re
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from typing import Any, NamedTuple

from isentropic.checks import check_choice, check_range
from isentropic.own.code import named
from isentropic.records import Prompt
from isentropic.seeds import global_generators, hash_seed
from isentropic.tasks.sizes import check_sizes

CHECKED = "0.7.4"  # the version whose games were read and played
# Games of one player that repeat under a seed, evaluate nothing that a player writes, and need no
# download, no other model and no second for a turn. Each was won, and paid 1 for it: Bandit-v0 pays
# most for the worst button, FifteenPuzzle-v0 fails when it is solved.
GAMES = (
    "2048-v0", "Blackjack-v0", "FrozenLake-v0", "GuessTheNumber-v0", "LightsOut-v0",
    "Mastermind-v0", "Minesweeper-v0", "PegJump-v0", "Secretary-v0", "Sudoku-v0", "TowerOfHanoi-v0",
)  # fmt: skip
LONGEST_TURN = 4000  # characters of a turn that a game gets, its end: the move follows the thought
BLANKS = re.compile(r"\s+")


@dataclass(frozen=True, kw_only=True)
class EnvironmentConfig:
    """Values live in conf/task/environment.yaml."""

    name: str
    game: str
    params: dict[str, Any]  # of the game, instead of its own values
    train_size: int
    eval_size: int
    seed: int  # of the games, not of the run
    max_turns: int  # of the policy; a game that is not over by then is paid 0
    reward_right: float  # a game that pays as much is won
    system_prompt: str | None
    on_long_prompt: str  # refuse | drop

    def __post_init__(self) -> None:
        check_choice("task.game", self.game, GAMES)
        check_sizes(self.train_size, self.eval_size)
        check_range("task.max_turns", self.max_turns, at_least=2)
        check_choice("task.on_long_prompt", self.on_long_prompt, ("refuse", "drop"))


class Played(NamedTuple):
    """A game after some turns: what it said last, and its reward; None: it goes on."""

    said: str
    reward: float | None


class EnvironmentTask:
    """Games from their seeds; `prompt_id` is 'environment/<game>/<split>/<index>'."""

    isolated = False  # a game matches a few thousand characters against short patterns, no more

    def __init__(self, config: EnvironmentConfig) -> None:
        self.config = config
        self.max_turns = config.max_turns
        _check_installed()
        try:
            self.prompt("train", 0)
        except Exception as error:  # of the game's own code
            raise ValueError(
                f"task.game={config.game} does not start with task.params={config.params}: "
                f"{named(error)}."
            ) from error

    def size(self, split: str) -> int:
        return self.config.train_size if split == "train" else self.config.eval_size

    def prompt(self, split: str, index: int) -> Prompt:
        seed = hash_seed("environment", self.config.game, self.config.seed, split, index) % 2**31
        system = self.config.system_prompt
        return Prompt(
            prompt_id=f"environment/{self.config.game}/{split}/{index}",
            messages=(
                *([{"role": "system", "content": system}] if system else []),
                {"role": "user", "content": self._play(seed, ()).said},
            ),
            answer="",
            metadata=str(seed),
            reward_right=self.config.reward_right,
        )

    def grade(self, prompt: Prompt, turns: Sequence[str]) -> float:
        """Returns what the game pays; 0 for one that is not over.

        Raises:
            Exception: whatever the game raises on what the policy wrote.
        """
        return self._play(int(prompt.metadata), turns).reward or 0.0

    def reply(self, prompt: Prompt, turns: Sequence[str]) -> str | None:
        """Returns what the game says to the last turn; None if it is over."""
        try:
            played = self._play(int(prompt.metadata), turns)
        except Exception:  # a game that fails on a text is over; `grade` reports it
            return None
        return played.said if played.reward is None else None

    def _play(self, seed: int, turns: Sequence[str]) -> Played:
        """Plays a whole game, up to the last of the turns."""
        import textarena  # seconds: only for a run of this task

        # Some games print.
        with global_generators(seed), redirect_stdout(StringIO()):
            game = textarena.make(f"{self.config.game}-raw", **self.config.params)
            game.reset(num_players=1, seed=seed)
            said, done = _said(game), False
            for turn in turns:
                done, _ = game.step(_move(turn))
                said = _said(game)
                if done:
                    break
            rewards, about = game.close()
        if not done:
            return Played(said, None)
        return Played(said, 0.0 if about[0]["invalid_move"] else max(0.0, float(rewards[0])))


def _move(turn: str) -> str:
    """Returns what a game gets of a turn: its end, with brackets if it has none."""
    # Patterns of some games take a time that grows with the square of a run of blanks.
    text = BLANKS.sub(" ", turn).strip()[-LONGEST_TURN:]
    return text if "[" in text else f"[{text}]"


def _said(game: Any) -> str:
    """Returns what the game told its player since the last time, without the player's own words."""
    player, messages = game.get_observation()
    return "\n".join(text for sender, text, _ in messages if sender != player).strip()


def _check_installed() -> None:
    try:
        installed = version("textarena")
    except PackageNotFoundError as error:
        raise ValueError(
            "task=environment plays games of textarena, which is not installed: "
            "pip install 'isentropic[environment]'."
        ) from error
    if installed != CHECKED:
        raise ValueError(
            f"textarena {installed} is installed. Its games were checked in version {CHECKED}, and "
            f"others may differ: pip install textarena=={CHECKED}"
        )
