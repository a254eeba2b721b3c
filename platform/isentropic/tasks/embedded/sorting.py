"""A second embedded task: put numbers into order. Longer answers, and every position counts.

    prompt    47,8,25>
    response  47;8,47;8,25,47#8,25,47      the working is free, what follows the last '#' counts

The working inserts one number after the other into a sorted list. As with sums, numbers are drawn
from the index, and a hash of them, whatever their order, decides between train and eval.
"""

import random
from bisect import insort
from collections.abc import Sequence
from dataclasses import replace

from isentropic.records import Prompt
from isentropic.tasks.arithmetic import SEPARATORS, ArithmeticConfig, ArithmeticTask

MARKS = tuple(mark for mark in SEPARATORS if mark != ",")  # a comma stands between numbers


class SortingConfig(ArithmeticConfig):
    """Values live in conf/task/sorting.yaml. A level '5x2' has five numbers of two digits."""


class SortingTask(ArithmeticTask):
    """Numbers in rising order; `prompt_id` is 'sorting/<split>/<level>/<index>'."""

    styles = ("inserts", "direct")

    def prompt(self, split: str, index: int) -> Prompt:
        level, numbers = self._question(split, index)
        return replace(
            super().prompt(split, index),
            prompt_id=f"sorting/{split}/{level}/{index}",
            messages=({"role": "user", "content": f"{_listed(numbers)}>"},),
            answer=_listed(sorted(numbers)),
        )

    def demonstration(
        self, prompt: Prompt, rng: random.Random, style_weights: Sequence[float]
    ) -> list[str]:
        """Write one of the many right responses: the insertions in any order, or the bare result."""
        if rng.choices(self.styles, style_weights)[0] == "direct":
            return [f"#{prompt.answer}"]
        numbers = list(map(int, prompt.answer.split(",")))
        rng.shuffle(numbers)
        lists: list[list[int]] = []
        for number in numbers:
            longer = list(lists[-1]) if lists else []
            insort(longer, number)
            lists.append(longer)
        return [f"{rng.choice(MARKS).join(map(_listed, lists))}#{prompt.answer}"]


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
