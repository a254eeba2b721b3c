"""A whole task of a user's own: a class from a file, or one that a package offers."""

import inspect
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

from isentropic.checks import check_choice
from isentropic.own.code import OwnCode, named, place
from isentropic.own.evaluates import evaluator
from isentropic.own.packages import load_offered, version
from isentropic.records import Prompt
from isentropic.tasks.base import reward_of
from isentropic.tasks.own.paid import as_reward
from isentropic.tasks.own.reward import said_or

NEEDS = ("size", "prompt", "grade")


@dataclass(frozen=True, kw_only=True)
class OwnTaskConfig:
    """A class like those of `tasks`, made with `settings` as its keywords; see docs/extend.md."""

    name: str
    file: str | None  # a .py file; a copy goes into the run folder; null: a package offers it
    class_name: str  # in the file, or among the entry points `isentropic.tasks`
    settings: dict[str, Any]  # what the class is made with
    on_long_prompt: str  # refuse | drop

    def __post_init__(self) -> None:
        check_choice("task.on_long_prompt", self.on_long_prompt, ("refuse", "drop"))
        _ = self.own_class  # what is not there is refused now

    @cached_property
    def code(self) -> OwnCode | None:
        """The file as it is now; it travels with the config."""
        return None if self.file is None else OwnCode.read("task.file", self.file)

    @property
    def package(self) -> str | None:
        """Name and version of the package that offers the class; None: it is from a file."""
        return version("task", self.class_name) if self.file is None else None

    @property
    def own_class(self) -> Any:
        """The user's class."""
        if self.code is not None:
            return self.code.get("task.class_name", self.class_name)
        return load_offered("task.class_name", "task", self.class_name)


class OwnTask:
    """Asks the user's task, and names file and line of what goes wrong in it."""

    def __init__(self, config: OwnTaskConfig) -> None:
        # First, so that it is the first in a pickle: it loads the module of the task behind it.
        self._code = config.code
        self._name = config.class_name
        own = config.own_class
        where = config.code.path if config.code is not None else str(config.package)
        try:
            self._task = own(**config.settings)
        except Exception as error:  # of the user's own code: it may raise what it likes
            raise ValueError(
                f"{place(error) or where}: {self._name}(**task.settings) fails: {named(error)}."
            ) from error
        if missing := [name for name in NEEDS if not callable(getattr(self._task, name, None))]:
            raise ValueError(
                f"{where}: {self._name} has no {', '.join(missing)}. A task needs size(split), "
                "prompt(split, index) and grade(prompt, turns)."
            )
        self.isolated = bool(getattr(self._task, "isolated", True))
        self.max_turns = int(getattr(self._task, "max_turns", 1))
        self.preload = (type(self._task).__module__,) if config.code is None else ()
        grade = type(self._task).grade
        self.place = config.code.line(grade) if config.code is not None else where
        # The class says it, else its file does.
        in_file = _evaluator(type(self._task)) if config.code is None else config.code.evaluator
        self.evaluator = said_or(self._task, in_file)
        self.runs_code = bool(self.evaluator)
        if self.runs_code and not self.isolated:
            raise ValueError(
                f"{self.place}: {self._name} has isolated = False, and {self.evaluator}: what a "
                "model wrote could run in the run's own process, with its files and keys. Leave "
                "`isolated` out, so that answers are graded behind the wall; or, if nothing in it "
                "evaluates an answer, write runs_code = False into the class."
            )

    def enter_server(self) -> None:
        """Makes the imports that each worker would have to repeat."""
        if self._code is not None:
            self._code.import_all()

    def size(self, split: str) -> int:
        size = self._asked("size", split)
        if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
            raise ValueError(
                f"{self._name}.size({split!r}) returned {size!r}; a task has a whole number of "
                "prompts, 1 at least, to train on ('train') and held out ('eval')."
            )
        return int(size)

    def prompt(self, split: str, index: int) -> Prompt:
        prompt = self._asked("prompt", split, index)
        if not isinstance(prompt, Prompt):
            raise ValueError(
                f"{self._name}.prompt({split!r}, {index}) returned {type(prompt).__name__}; a task "
                "returns an isentropic.records.Prompt."
            )
        if wrong := _wrong(prompt):
            raise ValueError(f"{self._name}.prompt({split!r}, {index}) has {wrong}.")
        return prompt

    def grade(self, prompt: Prompt, turns: Sequence[str]) -> float:
        # A copy: the answers of a group share the prompt, and the user's code may write into it.
        reward = self._task.grade(deepcopy(prompt), turns)
        return as_reward(reward, self.place, f"{self._name}.grade")

    def grade_truncated(self, prompt: Prompt, turns: Sequence[str]) -> float:
        reward = reward_of(self._task, deepcopy(prompt), turns, truncated=True)
        return as_reward(reward, self.place, f"{self._name}.grade_truncated")

    def reply(self, prompt: Prompt, turns: Sequence[str]) -> str | None:
        return (
            self._asked("reply", deepcopy(prompt), turns) if hasattr(self._task, "reply") else None
        )

    def _asked(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._task, name)(*arguments)
        except Exception as error:  # of the user's own code: it may raise what it likes
            where = place(error) or self.place
            raise ValueError(f"{where}: {self._name}.{name} fails: {named(error)}.") from error


def _evaluator(own: type) -> str:
    """Says what in the module of a package's class may run what a model wrote; "" if nothing."""
    try:
        return evaluator(inspect.getsource(sys.modules[own.__module__]))
    except (AttributeError, KeyError, OSError, TypeError):
        return "its source is not there to be read"


def _wrong(prompt: Prompt) -> str:
    """Says which field of a prompt is not what its type says; "" if none."""
    for name in ("prompt_id", "answer"):
        if not isinstance(value := getattr(prompt, name), str):
            return f"{name}={value!r}: it must be text"
    messages = prompt.messages
    texts = isinstance(messages, list | tuple) and all(
        isinstance(message, Mapping)
        and all(isinstance(message.get(key), str) for key in ("role", "content"))
        for message in messages
    )
    if not texts or not messages:
        return f"messages={messages!r:.80}: they must be a tuple of {{role: text, content: text}}"
    return ""
