"""A second embedded task: put numbers into order. The answer itself is long, and every position counts.

    prompt    47,8,25>
    response  #8;25,47      what follows the last '#' counts; any of three marks may separate numbers

Nothing shorter than all numbers is right, so training cannot shorten the answer. The marks are free:
without them a warm-started policy would have little entropy to lose. As with sums, numbers are
drawn from the index, and a hash of them, whatever their order, decides between train and eval.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from isentropic.records import Prompt
from isentropic.tasks.arithmetic import SEPARATORS, ArithmeticConfig, ArithmeticTask


class SortingConfig(ArithmeticConfig):
    """Values live in conf/task/sorting.yaml. A level '5x2' has five numbers of two digits."""


class SortingTask(ArithmeticTask):
    """Numbers in rising order; `prompt_id` is 'sorting/<split>/<level>/<index>'."""

    styles = ("list",)

    def prompt(self, split: str, index: int) -> Prompt:
        level, numbers = self._question(split, index)
        return replace(
            super().prompt(split, index),
            prompt_id=f"sorting/{split}/{level}/{index}",
            messages=({"role": "user", "content": f"{_listed(numbers)}>"},),
            answer=_listed(sorted(numbers)),
        )

    def grade(self, prompt: Prompt, turns: Sequence[str]) -> float:
        """Give 1 if the text after the last '#' is the sorted list, one mark between numbers, else 0."""
        _, mark, result = turns[-1].rpartition("#")
        listed = re.sub(f"[{''.join(SEPARATORS)}]", ",", result)
        return float(mark == "#" and listed == prompt.answer)

    def demonstration(
        self, prompt: Prompt, rng: random.Random, style_weights: Sequence[float]
    ) -> list[str]:
        """Write one of the many right responses: the sorted numbers, between any marks."""
        first, *others = prompt.answer.split(",")
        return ["#" + first + "".join(rng.choice(SEPARATORS) + number for number in others)]


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
