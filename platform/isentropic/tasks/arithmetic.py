"""The embedded task: sums of a few numbers, worked out in steps, checked by their result.

    prompt    47+25+8=
    response  47+25=72;72+8=80#80      the working is free, only what follows the last '#' counts

A level is named 'TERMSxDIGITS': '3x2' adds three numbers of two digits. Prompts are made from their
index, so nothing is stored. A hash of a question's numbers, whatever their order, decides whether
it belongs to train or to eval.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from isentropic.records import Prompt
from isentropic.seeds import hash_seed
from isentropic.tasks.sizes import check_sizes

LEVEL = re.compile(r"([2-9])x([1-6])")
EVAL_SHARE = 8  # one question in 8 is held out
SEPARATORS = (";", ",", " ")
STYLES = ("steps", "sums", "direct")


@dataclass(frozen=True, kw_only=True)
class ArithmeticConfig:
    """Values live in conf/task/arithmetic.yaml."""

    name: str
    levels: tuple[str, ...]  # 'TERMSxDIGITS', drawn alike
    train_size: int
    eval_size: int
    seed: int  # of the prompts, not of the run: every run sees the same data

    def __post_init__(self) -> None:
        check_sizes(self.train_size, self.eval_size)
        bad = [level for level in self.levels if not LEVEL.fullmatch(level)]
        if bad or not self.levels:
            raise ValueError(
                "task.levels must be a list of 'TERMSxDIGITS' with 2 to 9 terms and 1 to 6 digits; "
                f"got {self.levels}. For three numbers of two digits write '3x2'."
            )


class ArithmeticTask:
    """Sums, graded by their result. `prompt_id` is 'arithmetic/<split>/<level>/<index>'."""

    isolated = False  # a comparison of two strings: nothing in it can hang or crash
    max_turns = 1
    styles: tuple[str, ...] = STYLES  # of demonstrations

    def __init__(self, config: ArithmeticConfig) -> None:
        self.config = config

    def size(self, split: str) -> int:
        return self.config.train_size if split == "train" else self.config.eval_size

    def prompt(self, split: str, index: int) -> Prompt:
        level, terms = self._question(split, index)
        return Prompt(
            prompt_id=f"arithmetic/{split}/{level}/{index}",
            messages=({"role": "user", "content": "+".join(map(str, terms)) + "="},),
            answer=str(sum(terms)),
        )

    def grade(self, prompt: Prompt, turns: Sequence[str]) -> float:
        """Gives 1 if the text after the last '#' is the answer, else 0."""
        _, mark, result = turns[-1].rpartition("#")
        return float(mark == "#" and result.strip() == prompt.answer)

    def reply(self, prompt: Prompt, turns: Sequence[str]) -> str | None:
        return None

    def demonstration(
        self, prompt: Prompt, rng: random.Random, style_weights: Sequence[float]
    ) -> list[str]:
        """Writes the policy's turns of one right episode; here it is one turn."""
        return [demonstration(prompt, rng, style_weights)]

    def _question(self, split: str, index: int) -> tuple[str, list[int]]:
        """Draws level and terms, again and again until the question falls into the split."""
        rng = random.Random(hash_seed("arithmetic", self.config.seed, split, index))
        level = rng.choice(self.config.levels)
        count, digits = map(int, level.split("x"))
        while True:
            terms = [rng.randrange(10 ** (digits - 1), 10**digits) for _ in range(count)]
            if is_held_out(terms) == (split != "train"):
                return level, terms


def terms_of(prompt: Prompt) -> list[int]:
    """Reads the numbers to add from the prompt."""
    return list(map(int, prompt.messages[-1]["content"].rstrip("=").split("+")))


def is_held_out(terms: Sequence[int]) -> bool:
    """Returns whether a question, in any order of its terms, belongs to eval."""
    return hash_seed("held out", *sorted(terms)) % EVAL_SHARE == 0


def demonstration(prompt: Prompt, rng: random.Random, style_weights: Sequence[float]) -> str:
    """Writes one of the many right responses.

    Any order of the terms, any separator; with steps, partial sums or neither. Without this freedom
    the warm-started policy would have no entropy to lose.
    """
    terms = terms_of(prompt)
    style = rng.choices(STYLES, style_weights)[0]
    if style == "direct":
        return f"#{prompt.answer}"
    rng.shuffle(terms)
    total = terms[0]
    lines = []
    for term in terms[1:]:
        # Drawn in both styles, so that the draws after it are the same.
        first, second = rng.sample((total, term), 2)
        total += term
        lines.append(f"{first}+{second}={total}" if style == "steps" else f"{total}")
    return rng.choice(SEPARATORS).join(lines) + f"#{total}"
