"""A reward from a user's file: the forms that its function may have."""

import asyncio
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from copy import deepcopy
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

from isentropic.checks import check_choice, check_range
from isentropic.own.code import OwnCode, OwnError
from isentropic.records import Prompt
from isentropic.tasks.grading.worker import Item, WrongLength
from isentropic.tasks.own.paid import as_reward, short
from isentropic.tasks.own.places import FORMS, fault, style_of, trl_fault

STYLES = ("one", "batch", "trl")
TRL_NAMES = ("prompts", "completions")
NOT_COLUMNS = ("prompt", "completion", "completion_ids", *TRL_NAMES)


@dataclass(frozen=True, kw_only=True)
class OwnRewardConfig:
    """A reward of the user's own instead of the task's; see docs/extend.md."""

    file: str  # a .py file; a copy goes into the run folder
    function: str  # its name in the file
    # one: f(prompt, response, row) | batch: f(prompts, responses, rows) | trl: f(prompts=,
    # completions=, <column>=, ...); null: as its parameters say. Any of them may be `async def`.
    style: str | None = None
    weights: dict[str, float] | None = None  # of the parts that it returns; null: their sum

    def __post_init__(self) -> None:
        if self.style is not None:
            check_choice("task.reward.style", self.style, STYLES)
        for name, weight in (self.weights or {}).items():
            check_range(f"task.reward.weights.{name}", weight)
        self.code.get("task.reward.function", self.function)  # what is not there is refused now

    @cached_property
    def code(self) -> OwnCode:
        """The file as it is now; it travels with the config."""
        return OwnCode.read("task.reward.file", self.file)


class OwnReward:
    """Calls the user's function. A pickle of it loads the file where it is opened.

    Args:
        column: of the problem; its value says whether TRL's form gets texts or messages.

    Raises:
        ValueError: the file fails, lacks the function, or the function takes other parameters.
    """

    def __init__(self, config: OwnRewardConfig, column: str) -> None:
        self._code = config.code
        self._name = config.function
        self._weights = config.weights
        self._column = column
        function = self._function
        self.place = self._code.line(function)
        if not callable(function):
            raise ValueError(
                f"task.reward.function={self._name}: in {self.place} it is "
                f"{type(function).__name__}, not a function."
            )
        # The function says it (`grade.runs_code = False`), else its file does.
        self.evaluator = said_or(function, self._code.evaluator)
        try:
            parameters = inspect.signature(function).parameters
        except ValueError as error:
            raise ValueError(
                f"{self.place}: {self._name} does not say which parameters it takes (it is not "
                "written in Python). Call it in a function of your own."
            ) from error
        self._style = config.style or style_of(function)
        self._is_async = inspect.iscoroutinefunction(function)
        self._check_parameters(parameters)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def calls_together(self) -> bool:
        """Whether several answers are graded in one go."""
        return self._is_async or self._style != "one"

    def enter_server(self) -> None:
        """Makes the imports that each worker would have to repeat."""
        self._code.import_all()

    def enter_worker(self) -> None:
        """Opens the event loop of `async def` functions, which the wall would forbid."""
        self._loop = asyncio.new_event_loop() if self._is_async else None

    def grade(self, items: Sequence[Item]) -> list[float | Exception]:
        """Returns a reward per item, in order; the error of the item instead if it has one.

        Raises:
            Exception: whatever the function raises, if it grades them in one call.
        """
        if self._style != "one":
            values = self._wait(self._batch(items))
            return [self._caught(value) for value in self._listed(values, len(items))]
        if not self._is_async:
            return [self._as_reward(self._wait(self._one(*item))) for item in items]

        async def all_of_them() -> list[Any]:
            calls = [self._one(*item) for item in items]
            return await asyncio.gather(*calls, return_exceptions=True)

        return [self._caught(value) for value in self._wait(all_of_them())]

    @property
    def _function(self) -> Any:
        return self._code.get("task.reward.function", self._name)

    def _one(self, prompt: Prompt, turns: Sequence[str], truncated: bool = False) -> Any:
        more = {"truncated": truncated} if "truncated" in self._parameters else {}
        return self._function(_asked(prompt), turns[-1], row_of(prompt), **more)

    def _batch(self, items: Sequence[Item]) -> Any:
        prompts = [item[0] for item in items]
        responses = [item[1][-1] for item in items]
        rows = [row_of(prompt) for prompt in prompts]
        truncated = [len(item) > 2 and item[2] for item in items]
        more = {"truncated": truncated} if "truncated" in self._parameters else {}
        if self._style == "trl":
            return self._function(**(more | self._trl_arguments(prompts, responses, rows)))
        return self._function([_asked(prompt) for prompt in prompts], responses, rows, **more)

    def _trl_arguments(
        self, prompts: Sequence[Prompt], responses: Sequence[str], rows: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        """Texts, or messages if the data set has those, and a list for each column."""
        is_chat = isinstance(rows[0].get(self._column), list)
        names = [name for name in dict.fromkeys(key for row in rows for key in row)]
        columns = {
            name: [row.get(name) for row in rows] for name in names if name not in NOT_COLUMNS
        }
        arguments = columns | {
            # Copies: a function may write into what it gets, and the answers of a group share them.
            "prompts": [deepcopy(list(p.messages)) if is_chat else _asked(p) for p in prompts],
            "completions": [
                [{"role": "assistant", "content": text}] if is_chat else text for text in responses
            ],
        }
        takes_all = any(kind is inspect.Parameter.VAR_KEYWORD for kind in self._parameters.values())
        return {key: arguments[key] for key in arguments if takes_all or key in self._parameters}

    def _wait(self, values: Any) -> Any:
        if not inspect.isawaitable(values):
            return values
        if self._loop is None:
            raise OwnError(
                self.place,
                f"{self._name} returned something to be awaited: define it by `async def` itself",
            )
        return self._loop.run_until_complete(values)

    def _listed(self, values: Any, count: int) -> list[Any]:
        # A set has lost the order.
        if isinstance(values, str | bytes | Mapping | Set) or not isinstance(values, Iterable):
            raise OwnError(
                self.place,
                f"{self._name} returned {short(values)}; a batch of {count} answers needs a list "
                f"of {count} rewards",
            )
        values = list(values)
        if len(values) != count:
            raise WrongLength(
                self.place,
                f"{self._name} returned {len(values)} rewards for a batch of {count} answers; it "
                f"must return {count}, one for each in their order",
            )
        return values

    def _caught(self, value: Any) -> float | Exception:
        if isinstance(value, Exception):
            return value
        try:
            return self._as_reward(value)
        except OwnError as error:
            return error

    def _as_reward(self, value: Any) -> float:
        return as_reward(value, self.place, self._name, self._weights)

    def _check_parameters(self, parameters: Mapping[str, inspect.Parameter]) -> None:
        self._parameters = {name: parameter.kind for name, parameter in parameters.items()}
        wrong = trl_fault(parameters) if self._style == "trl" else fault(parameters, self._style)
        if wrong:
            raise ValueError(
                f"{self.place}: {self._name}({', '.join(parameters)}) cannot be called as "
                f"task.reward.style={self._style} is, {wrong} Forms: "
                f"{self._name}{FORMS['one']} -> number or dict of numbers; "
                f"{self._name}{FORMS['batch']} -> a list of them; TRL's (prompts, completions, "
                "**columns). docs/extend.md has an example of each."
            )


def said_or(own: Any, evaluator: str) -> str:
    """Returns what of the user's runs what a model wrote: what he says by `runs_code`, else his file."""
    said = getattr(own, "runs_code", None)
    return evaluator if said is None else "it says runs_code = True" if said else ""


def row_of(prompt: Prompt) -> dict[str, Any]:
    """Returns the row that a prompt was made of, as its task wrote it into `metadata`."""
    return json.loads(prompt.metadata) if prompt.metadata else {}


def as_metadata(row: Mapping[str, Any]) -> str:
    """Returns a row as JSON; what JSON lacks, such as a date, is text, a decimal is a number."""
    return json.dumps(row, default=_as_json, ensure_ascii=False)


def _as_json(value: Any) -> Any:
    if not isinstance(value, Decimal):
        return str(value)
    return int(value) if value.is_finite() and value == int(value) else float(value)


def _asked(prompt: Prompt) -> str:
    return prompt.messages[-1]["content"]
