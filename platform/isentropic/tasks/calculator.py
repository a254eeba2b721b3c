"""The embedded task in several turns: the same sums, with a calculator to ask.

    prompt    47+25+8=
    policy    47+25=       tool    72
    policy    72+8=        tool    80
    policy    #80          a turn with '#' ends the episode: what follows the last '#' is the answer

The tool adds two numbers per turn, and answers '?' to anything else. The policy need not use it:
'#80' at once is as good an answer, and a policy that adds badly in its head can learn to ask. Only
the policy's turns carry loss.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from isentropic.checks import check_range
from isentropic.records import Prompt
from isentropic.tasks.arithmetic import ArithmeticConfig, ArithmeticTask, terms_of

SUM = re.compile(r"\s*(\d{1,12})\+(\d{1,12})=?\s*")
NOT_A_SUM = "?"


@dataclass(frozen=True, kw_only=True)
class CalculatorConfig(ArithmeticConfig):
    """Values live in conf/task/calculator.yaml."""

    # Of the policy, the answer's included; an episode that has not answered by then is wrong.
    max_turns: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(
            "task.max_turns",
            self.max_turns,
            at_least=2,
            hint="For one turn choose task=arithmetic.",
        )


class CalculatorTask(ArithmeticTask):
    """Sums with a calculator; `prompt_id` is 'calculator/<split>/<level>/<index>'."""

    styles = ("tool", "direct")

    def __init__(self, config: CalculatorConfig) -> None:
        super().__init__(config)
        self.max_turns = config.max_turns

    def prompt(self, split: str, index: int) -> Prompt:
        prompt = super().prompt(split, index)
        return replace(prompt, prompt_id=prompt.prompt_id.replace("arithmetic/", "calculator/", 1))

    def reply(self, prompt: Prompt, turns: Sequence[str]) -> str | None:
        """Returns the sum that the last turn asks for; None if that turn has a '#'."""
        if "#" in turns[-1]:
            return None
        terms = SUM.fullmatch(turns[-1])
        return str(int(terms[1]) + int(terms[2])) if terms else NOT_A_SUM

    def demonstration(
        self, prompt: Prompt, rng: random.Random, style_weights: Sequence[float]
    ) -> list[str]:
        """Draws the policy's turns of one right episode.

        Either the terms in any order, one sum per turn, or the answer at once.
        """
        style = rng.choices(self.styles, style_weights)[0]
        answer = f"#{prompt.answer}"
        if style == "direct":
            return [answer]
        terms = terms_of(prompt)
        rng.shuffle(terms)
        total = terms[0]
        turns = []
        for term in terms[1:]:
            pair = rng.sample((total, term), 2)
            turns.append(f"{pair[0]}+{pair[1]}=")
            total += term
        return [*turns, answer]
