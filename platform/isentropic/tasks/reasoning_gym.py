"""Generators of reasoning-gym, by name, with their own parameters and their own score.

All of them were checked once (tests/tasks/generators.py); the results are in
reasoning_gym_generators.json and, for people, in docs/reasoning_gym.md. A generator is refused by
name if its items are not the same in every process, if nothing says what a right answer is, or if
it pays for nonsense.
"""

import ast
import json
import math
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache, lru_cache
from importlib import resources
from importlib.metadata import version
from typing import Any

import numpy as np

from isentropic.checks import check_choice, check_package, nearest
from isentropic.records import Prompt
from isentropic.seeds import global_generators
from isentropic.tasks.base import TRUNCATED_ANSWERS
from isentropic.tasks.grading import plain
from isentropic.tasks.own.graded import MayBeGraded
from isentropic.tasks.own.reward import OwnReward, OwnRewardConfig, as_metadata
from isentropic.tasks.sizes import check_sizes

# The scores of these pass the answer to eval or to sympy's parser, which evaluates it. Each has a
# closed grammar: text outside it is a wrong answer, and no evaluator sees it.
EVALUATE_ANSWERS: dict[str, plain.Plain] = {
    "binary_matrix": plain.nested_list,
    "countdown": plain.arithmetic,
    "intermediate_integration": plain.expression,
    "n_queens": plain.board,
    "polynomial_multiplication": plain.expression,
    "puzzle24": plain.arithmetic,
    "simple_integration": plain.expression,
    "spiral_matrix": plain.nested_list,
    "string_insertion": plain.nested_list,
}
# These give no answer with an item, only an example of a right one in its metadata.
EXAMPLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "graph_color": lambda metadata: json.dumps(metadata["possible_answer"]),
    "propositional_logic": lambda metadata: metadata["example_answer"],
    "rubiks_cube": lambda metadata: metadata["example_correct_answer"],
}
NONSENSE = ("", "nan", "inf", "xyzzy", "0", "I do not know the answer to this question.")
# In the cache; others are made again when needed, and some generators take a second for one.
KEPT_PROMPTS = 4096


@dataclass(frozen=True, kw_only=True)
class ReasoningGymConfig:
    """Values live in conf/task/reasoning_gym.yaml."""

    name: str
    generator: str
    params: dict[str, Any]  # of the generator
    train_size: int
    eval_size: int
    seed: int
    system_prompt: str | None
    suffix: str  # after the question
    # Its last match (its group, if it has one) is the answer; null: the whole response.
    answer_pattern: str | None
    truncated_answer: str  # marked | any: what counts of a response that was cut off
    allow_nonsense: bool  # true: also a generator that pays in full for nonsense
    on_long_prompt: str  # refuse | drop
    reward: OwnRewardConfig | None = None  # a function of the user's instead of the score

    def __post_init__(self) -> None:
        _check_generator(self.generator, self.allow_nonsense)
        check_sizes(self.train_size, self.eval_size)
        check_choice("task.truncated_answer", self.truncated_answer, TRUNCATED_ANSWERS)
        try:
            re.compile(self.answer_pattern or "")
        except re.error as error:
            raise ValueError(
                "task.answer_pattern must be a regular expression, got "
                f"{self.answer_pattern!r}: {error}."
            ) from error


class ReasoningGymTask(MayBeGraded):
    """One generator's items; `prompt_id` is 'reasoning_gym/<generator>/<split>/<index>'.

    Both splits come from one series of items: eval follows train.
    """

    isolated = True  # scores parse what a model wrote
    max_turns = 1

    def __init__(self, config: ReasoningGymConfig) -> None:
        self.config = config
        self._reward = _own_reward(config)
        self._dataset = _create(config, config.train_size + config.eval_size)
        self._prompts = lru_cache(KEPT_PROMPTS)(self._make_prompt)
        if self._reward is None:
            self._check_first()

    def __getstate__(self) -> dict[str, Any]:
        """Keeps only the config: a worker grades the items it is given, and makes none."""
        return {"config": self.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.config = state["config"]
        self._reward = _own_reward(self.config)
        self._dataset = _create(self.config, 1) if self._reward is None else None
        self._prompts = lru_cache(KEPT_PROMPTS)(self._make_prompt)

    @property
    def preload(self) -> tuple[str, ...]:
        """Imported by the server that workers are forked from."""
        return ("reasoning_gym",) if self._reward is None else ()

    def size(self, split: str) -> int:
        return self.config.train_size if split == "train" else self.config.eval_size

    def prompt(self, split: str, index: int) -> Prompt:
        return self._prompts(split, index)

    def grade(self, prompt: Prompt, turns: Sequence[str]) -> float:
        """Returns the generator's own score, in [0, 1]."""
        if self._reward is not None:
            return self._paid(prompt, turns)
        answer = extract(turns[-1], self.config.answer_pattern)
        if answer is not None and answer != prompt.answer.strip():
            answer = EVALUATE_ANSWERS.get(self.config.generator, _as_it_is)(answer)
        return 0.0 if answer is None else self._score(prompt, answer)

    def grade_truncated(self, prompt: Prompt, turns: Sequence[str]) -> float:
        """Pays what `answer_pattern` finds; without one a response that lacks its end says nothing."""
        if self._reward is not None:
            return self._paid(prompt, turns, truncated=True)
        if self.config.truncated_answer == "any" or self.config.answer_pattern is not None:
            return self.grade(prompt, turns)
        return self.grade(prompt, (*turns[:-1], ""))

    def reply(self, prompt: Prompt, turns: Sequence[str]) -> str | None:
        return None

    def _make_prompt(self, split: str, index: int) -> Prompt:
        item = self._item(split, index)
        system = self.config.system_prompt
        messages = ({"role": "system", "content": system},) if system else ()
        question = {"role": "user", "content": item["question"] + self.config.suffix}
        entry = _plain_data({"answer": item["answer"], "metadata": item["metadata"]})
        row = {"question": item["question"], **entry}
        return Prompt(
            prompt_id=f"reasoning_gym/{self.config.generator}/{split}/{index}",
            messages=(*messages, question),
            answer=_right_answer(self.config.generator, item),
            metadata=repr(entry) if self._reward is None else as_metadata(_with_text_keys(row)),
        )

    def _item(self, split: str, index: int) -> dict[str, Any]:
        try:
            with global_generators():  # one of the generators seeds numpy's
                return self._dataset[index if split == "train" else self.config.train_size + index]
        except Exception as error:  # some generators give up on an item without a solution
            raise ValueError(
                f"reasoning-gym cannot make {split} item {index} of {self.config.generator} with "
                f"task.params={self.config.params}: {error!r}. Choose other parameters, or another "
                "task.seed."
            ) from error

    def _score(self, prompt: Prompt, answer: str) -> float:
        entry = ast.literal_eval(prompt.metadata)
        return float(self._dataset.score_answer(answer=answer, entry=entry))

    def _check_first(self) -> None:
        """Refuses parameters if the first right answer is not paid in full, or nonsense is."""
        prompt = self.prompt("train", 0)
        generator = f"task.generator={self.config.generator} with task.params={self.config.params}"
        try:
            reward = self._score(prompt, prompt.answer)
        except Exception as error:  # of the generator's own code
            raise ValueError(f"{generator} cannot grade its own first answer: {error!r}") from error
        if reward < 1:
            raise ValueError(
                f"{generator} pays {reward} for its own right answer {prompt.answer!r}."
            )
        paid = [answer for answer in NONSENSE if self._is_paid(prompt, answer)]
        if paid and not self.config.allow_nonsense:
            raise ValueError(
                f"{generator} pays in full for {paid[0]!r}; {prompt.answer!r} is right. "
                "To train on it all the same: task.allow_nonsense=true."
            )

    def _is_paid(self, prompt: Prompt, answer: str) -> bool:
        """Returns True if an answer that is not the right one is paid in full."""
        if _same(answer, prompt.answer):
            return False
        plain_answer = EVALUATE_ANSWERS.get(self.config.generator, _as_it_is)(answer)
        try:
            return plain_answer is not None and self._score(prompt, plain_answer) >= 1
        except Exception:  # a check that raises on nonsense pays nothing for it
            return False


def extract(response: str, pattern: str | None) -> str | None:
    """Returns the last match of `pattern` in the response, or None; all of it if no pattern."""
    if pattern is None:
        return response.strip()
    matches = deque(re.finditer(pattern, response), maxlen=1)
    if not matches:
        return None
    match = matches.pop()
    return (match.group(1) if match.re.groups else match.group()).strip()


@cache
def generators() -> dict[str, Any]:
    """Reads the results of the check of all generators: reasoning-gym's version, a row per name."""
    file = resources.files("isentropic.tasks").joinpath("reasoning_gym_generators.json")
    return json.loads(file.read_text(encoding="utf-8"))


def _check_generator(name: str, allow_nonsense: bool) -> None:
    """Refuses a generator that is unknown, or that failed the check of all generators."""
    rows = generators()["generators"]
    if name not in rows:
        raise ValueError(
            f"task.generator must be one of the {len(rows)} of reasoning-gym, got {name!r}."
            f"{nearest(name, rows)} docs/reasoning_gym.md lists them."
        )
    row = rows[name]
    if row["refused"]:
        raise ValueError(
            f"task.generator={name} is refused: {row['refused']}. Choose another; "
            "docs/reasoning_gym.md lists them."
        )
    if row["nonsense"] and not allow_nonsense:
        raise ValueError(
            f"task.generator={name} {row['nonsense']}: a policy would learn to write that. Choose "
            "another (docs/reasoning_gym.md), or to train on it all the same: "
            "task.allow_nonsense=true."
        )


def _create(config: ReasoningGymConfig, size: int) -> Any:
    """Creates the generator's data set, after a check of its parameters."""
    check_package("reasoning_gym", extra="gym", key="task=reasoning_gym")
    from reasoning_gym.factory import DATASETS, create_dataset

    installed = version("reasoning-gym")
    checked = generators()["version"]
    if installed != checked:
        raise ValueError(
            f"reasoning-gym {installed} is installed. Its generators were checked in version "
            f"{checked}, and items or scores may differ: pip install reasoning-gym=={checked}"
        )
    allowed = [
        field.name
        for field in fields(DATASETS[config.generator][1])
        if field.name not in ("seed", "size")
    ]
    for key in config.params:
        if key not in allowed:
            raise ValueError(
                f"task.params of {config.generator} must be among {', '.join(allowed)}; got "
                f"{key!r}.{nearest(key, allowed)} (task.seed, task.train_size and task.eval_size "
                "set seed and size.)"
            )
    try:
        return create_dataset(config.generator, seed=config.seed, size=size, **config.params)
    except Exception as error:  # generators check with assert, and some just fail
        defaults = {
            field.name: field.default
            for field in fields(DATASETS[config.generator][1])
            if field.name in config.params and field.default is not MISSING
        }
        raise ValueError(
            f"reasoning-gym refuses task.params={config.params} of {config.generator}: {error!r}. "
            f"Give others; the generator's own are {defaults}."
        ) from error


def _right_answer(generator: str, item: dict[str, Any]) -> str:
    if generator in EXAMPLES:
        return EXAMPLES[generator](item["metadata"])
    return str(item["answer"])


def _as_it_is(answer: str) -> str:
    return answer


def _plain_data(value: Any) -> Any:
    """Returns the value as a Python literal can write it.

    JSON would lose tuples, and keys that are not text. Any other object, for example a fraction in
    an explanation, becomes its text: scores do not read it.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        return {_plain_data(key): _plain_data(entry) for key, entry in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(_plain_data(entry) for entry in value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or type(value) in (str, int, float, bool) else str(value)


def _with_text_keys(value: Any) -> Any:
    """Returns the value with keys that JSON has: (0, 1) is '(0, 1)'."""
    if isinstance(value, dict):
        return {str(key): _with_text_keys(entry) for key, entry in value.items()}
    if isinstance(value, set):
        value = sorted(value, key=repr)
    if isinstance(value, list | tuple):
        return [_with_text_keys(entry) for entry in value]
    return value


def _own_reward(config: ReasoningGymConfig) -> OwnReward | None:
    return None if config.reward is None else OwnReward(config.reward, "question")


def _same(answer: str, right: str) -> bool:
    """Returns True if two answers are the same text, or numbers within a score's tolerance."""
    if answer == right:
        return True
    try:
        # The first word, because "0" and "0 days" are the same answer.
        return math.isclose(float(answer), float(right.split()[0]), abs_tol=0.01)
    except (ValueError, IndexError):
        return False
