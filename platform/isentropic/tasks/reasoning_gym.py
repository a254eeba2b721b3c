"""Any generator of reasoning-gym, by its name, with its own parameters and its own score."""

import ast
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from isentropic.checks import check_range, nearest
from isentropic.records import Prompt

# Their scores pass the answer to eval or to sympy's parser, which evaluates it: only plain expressions get there.
EVALUATE_ANSWERS = {
    "binary_matrix",
    "countdown",
    "intermediate_integration",
    "n_queens",
    "polynomial_multiplication",
    "puzzle24",
    "simple_integration",
    "spiral_matrix",
    "string_insertion",
}
PLAIN_NODES = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.operator,
    ast.unaryop,
    ast.Constant,
    ast.List,
    ast.Tuple,
    ast.Load,
    ast.Name,
    ast.Call,
)
PLAIN_NAME = re.compile(
    r"[A-Za-z]|sin|cos|tan|exp|log|ln|sqrt|pi|asin|acos|atan|sinh|cosh|tanh|Abs"
)


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
    answer_pattern: (
        str | None
    )  # the last match (its group, if it has one) is the answer; null: the whole response
    on_long_prompt: str  # refuse | drop

    def __post_init__(self) -> None:
        check_range("task.train_size", self.train_size, at_least=1)
        check_range("task.eval_size", self.eval_size, at_least=1)
        try:
            re.compile(self.answer_pattern or "")
        except re.error as error:
            raise ValueError(
                f"task.answer_pattern must be a regular expression, got {self.answer_pattern!r}: {error}."
            ) from error


class ReasoningGymTask:
    """`prompt_id` is 'reasoning_gym/<generator>/<split>/<index>'; eval follows train in one series of items."""

    isolated = True  # scores parse what a model wrote
    max_turns = 1
    preload = ("reasoning_gym",)  # by the server that workers are forked from

    def __init__(self, config: ReasoningGymConfig) -> None:
        self.config = config
        self._dataset = _create(config)

    def size(self, split: str) -> int:
        return self.config.train_size if split == "train" else self.config.eval_size

    def prompt(self, split: str, index: int) -> Prompt:
        item = self._item(split, index)
        system = self.config.system_prompt
        messages = ({"role": "system", "content": system},) if system else ()
        return Prompt(
            prompt_id=f"reasoning_gym/{self.config.generator}/{split}/{index}",
            messages=(
                *messages,
                {"role": "user", "content": item["question"] + self.config.suffix},
            ),
            answer=str(item["answer"]),
        )

    def grade(self, prompt: Prompt, turns: Sequence[str]) -> float:
        """The generator's own score, in [0, 1]."""
        answer = extract(turns[-1], self.config.answer_pattern)
        if answer is None:
            return 0.0
        if (
            self.config.generator in EVALUATE_ANSWERS
            and answer != prompt.answer
            and not is_plain(answer)
        ):
            return 0.0
        _, _, split, index = prompt.prompt_id.split("/")
        return float(self._dataset.score_answer(answer=answer, entry=self._item(split, int(index))))

    def reply(self, prompt: Prompt, turns: Sequence[str]) -> str | None:
        return None

    def _item(self, split: str, index: int) -> dict[str, Any]:
        return self._dataset[index if split == "train" else self.config.train_size + index]


def extract(response: str, pattern: str | None) -> str | None:
    """The last match of `pattern` in the response, or None; the whole response where there is no pattern."""
    if pattern is None:
        return response.strip()
    matches = deque(re.finditer(pattern, response), maxlen=1)
    if not matches:
        return None
    found = matches.pop()
    return (found.group(1) if found.re.groups else found.group()).strip()


def is_plain(text: str) -> bool:
    """Whether an expression is arithmetic or nested lists of constants: safe to evaluate."""
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, PLAIN_NODES) and _is_plain_node(node) for node in nodes)


def _is_plain_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return PLAIN_NAME.fullmatch(node.id) is not None
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and len(node.func.id) > 1 and not node.keywords
    return True


def _create(config: ReasoningGymConfig) -> Any:
    """The generator's data set, its name and parameters checked."""
    from reasoning_gym.factory import DATASETS, create_dataset

    if config.generator not in DATASETS:
        raise ValueError(
            f"task.generator must be one of the {len(DATASETS)} of reasoning-gym, got {config.generator!r}."
            f"{nearest(config.generator, DATASETS)} `reasoning_gym.factory.DATASETS` lists them."
        )
    allowed = [
        field.name
        for field in fields(DATASETS[config.generator][1])
        if field.name not in ("seed", "size")
    ]
    for key in config.params:
        if key not in allowed:
            raise ValueError(
                f"task.params of {config.generator} must be among {', '.join(allowed)}; got {key!r}."
                f"{nearest(key, allowed)} (task.seed, task.train_size and task.eval_size set seed and size.)"
            )
    size = config.train_size + config.eval_size
    try:
        return create_dataset(config.generator, seed=config.seed, size=size, **config.params)
    except Exception as error:  # generators check by assert, and some by failing
        raise ValueError(
            f"reasoning-gym refuses task.params={config.params} of {config.generator}: {error!r}"
        ) from error
