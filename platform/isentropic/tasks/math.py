"""Mathematical problems with one right answer, from files or the Hub."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from isentropic.checks import check_choice, check_range
from isentropic.records import Prompt
from isentropic.seeds import hash_seed
from isentropic.tasks.answers.equal import gold_text, is_right
from isentropic.tasks.answers.final import final_answer
from isentropic.tasks.base import TRUNCATED_ANSWERS
from isentropic.tasks.data.floats import without_noise
from isentropic.tasks.data.rows import (
    WHOLE,
    BadValue,
    Messages,
    Reader,
    Row,
    as_answer,
    as_prompt,
    as_text,
    read_rows,
)
from isentropic.tasks.data.sameness import plain
from isentropic.tasks.data.sources import separator
from isentropic.tasks.own.graded import MayBeGraded
from isentropic.tasks.own.reward import OwnReward, OwnRewardConfig, as_metadata

# A table's missing numbers as text, from `DataFrame.astype(str)` or a database: no gold.
NO_VALUE = ("nan", "NaN", "None", "null", "NULL", "<NA>", "NaT")
DECIMAL_COMMA = re.compile(r"[-+\u2212]?(\d+|\d{1,3}(\.\d{3})+),\d+\s*%?")  # or two answers


@dataclass(frozen=True, kw_only=True)
class MathConfig:
    """Values live in conf/task/math.yaml."""

    name: str
    path: str  # a file, a folder or a data set of the Hub; see data/sources.py
    eval_path: str | None  # held-out problems; null: a share of `path`
    train_split: str  # of folders and data sets of the Hub
    eval_split: str
    problem_column: str  # text, or a list of chat messages; a.b is the column b inside a
    answer_column: str | None  # text or a number; null, only with a reward: there is none
    image_column: str | None  # path of an image that goes with the problem; null: text only
    limit: int | None  # of each file; null: all rows
    eval_share: float  # held out by a hash of the problem's text, if there is no eval_path
    system_prompt: str | None
    suffix: str  # after the problem: how to write the answer
    reward_right: float
    reward_wrong: float
    truncated_answer: str  # marked | any: what counts of a response that was cut off
    on_bad_row: str  # refuse | skip
    on_long_prompt: str  # refuse | drop
    reward: OwnRewardConfig | None = None  # a function of the user's instead of the check

    def __post_init__(self) -> None:
        if self.reward is None and self.answer_column is None:
            raise ValueError(
                "task.answer_column=null leaves nothing to check answers against. Name the column, "
                "or give a reward: 'task.reward={file: my_reward.py, function: grade}'."
            )
        if self.problem_column == self.answer_column:
            raise ValueError(
                f"task.problem_column and task.answer_column are both {self.problem_column!r}: the "
                "model would read the answer. Name the column of each."
            )
        check_choice("task.truncated_answer", self.truncated_answer, TRUNCATED_ANSWERS)
        check_choice("task.on_bad_row", self.on_bad_row, ("refuse", "skip"))
        check_choice("task.on_long_prompt", self.on_long_prompt, ("refuse", "drop"))
        check_range("task.eval_share", self.eval_share, above=0, below=1)
        check_range(
            "task.reward_right",
            self.reward_right,
            above=self.reward_wrong,
            hint="Right must pay more.",
        )
        if self.limit is not None:
            check_range("task.limit", self.limit, at_least=1)


class MathTask(MayBeGraded):
    """Reads its files once, at the start; `answers` says what is right.

    `prompt_id` is 'math/<split>/<index>'. Workers get no rows.
    """

    isolated = True  # parsing what a model wrote can take for ever
    max_turns = 1

    def __init__(self, config: MathConfig) -> None:
        self.config = config
        self.num_skipped = 0
        own = config.reward
        self._reward = None if own is None else OwnReward(own, config.problem_column)
        train = self._read(config.path, config.train_split)
        if config.eval_path is not None:
            held_out = self._read(config.eval_path, config.eval_split, key="task.eval_path")
        else:
            train, held_out = self._split(train)
        self._rows = {"train": train, "eval": held_out}
        for split, rows in self._rows.items():
            if not rows:
                raise ValueError(
                    f"the {split} split of task.path={config.path} is empty with "
                    f"task.eval_share={config.eval_share}. Give more rows, another share, or "
                    "task.eval_path."
                )

    def __getstate__(self) -> dict[str, Any]:
        """Without the rows: a worker grades the prompts it is given."""
        return {**vars(self), "_rows": {}}

    @property
    def preload(self) -> tuple[str, ...]:
        """Modules of the checks, for the server that workers are forked from."""
        return ("math_verify", "latex2sympy2_extended") if self._reward is None else ()

    def size(self, split: str) -> int:
        return len(self._rows[split])

    def prompt(self, split: str, index: int) -> Prompt:
        row = self._rows[split][index]
        system = self.config.system_prompt
        *before, problem = _messages(row[self.config.problem_column])
        if system:
            before = [{"role": "system", "content": system}, *before]
        return Prompt(
            prompt_id=f"math/{split}/{index}",
            messages=(*before, {**problem, "content": problem["content"] + self.config.suffix}),
            answer=row[self.config.answer_column].strip() if self.config.answer_column else "",
            media=(row[self.config.image_column],) if self.config.image_column else (),
            metadata=row.get(WHOLE, ""),
            reward_right=self.config.reward_right,
        )

    def grade(self, prompt: Prompt, turns: Sequence[str]) -> float:
        if self._reward is not None:
            return self._paid(prompt, turns)
        right = is_right(turns[-1], prompt.answer)
        return self.config.reward_right if right else self.config.reward_wrong

    def grade_truncated(self, prompt: Prompt, turns: Sequence[str]) -> float:
        """Pays an answer in a box, or behind `####`, and no other: the text would have gone on."""
        if self._reward is not None:
            return self._paid(prompt, turns, truncated=True)
        if self.config.truncated_answer == "any" or final_answer(turns[-1], truncated=True):
            return self.grade(prompt, turns)
        return self.grade(prompt, (*turns[:-1], ""))

    def reply(self, prompt: Prompt, turns: Sequence[str]) -> str | None:
        return None

    def _read(self, path: str, split: str, key: str = "task.path") -> list[Row]:
        config = self.config
        columns: dict[str, Reader] = {config.problem_column: self._as_problem}
        if config.answer_column:
            gold = as_gold_of_semicolons if separator(path) == ";" else as_gold
            columns[config.answer_column] = gold if config.reward is None else as_answer
        if config.image_column:
            columns[config.image_column] = as_text
        rows, skipped = read_rows(
            path,
            split=split,
            columns=columns,
            limit=config.limit,
            on_bad_row=config.on_bad_row,
            key=key,
            whole=None if config.reward is None else as_metadata,
            together=self._contradicting,
        )
        self.num_skipped += skipped
        return rows

    def _contradicting(self, rows: Sequence[Row]) -> dict[int, BadValue]:
        """Says of rows that ask the same and have different golds that one of them must be wrong.

        A reward of the user's own knows of the row what else makes its answers right.
        """
        if self._reward is not None:
            return {}
        problem, answer = self.config.problem_column, self.config.answer_column
        image = self.config.image_column
        alike: dict[Any, list[int]] = {}
        for index, row in enumerate(rows):
            text = " ".join(_text(row[problem]).split())
            alike.setdefault((text, row[image] if image else ""), []).append(index)
        reason = f"{problem} is that of other rows, whose {answer} is another"
        return {
            index: BadValue(reason, rows[index][answer])
            for first, *others in alike.values()
            if any(not _same_gold(rows[first][answer], rows[other][answer]) for other in others)
            for index in (first, *others)
        }

    def _as_problem(self, value: Any) -> str | Messages:
        problem = as_prompt(value)
        if self.config.system_prompt and any(m["role"] == "system" for m in _messages(problem)):
            raise BadValue(
                "has a system message of its own, and task.system_prompt gives another (set it to "
                "null, or take the messages' own away)"
            )
        return problem

    def _split(self, rows: list[Row]) -> tuple[list[Row], list[Row]]:
        """Train rows and held-out rows, by the lowest hashes: copies of a problem stay together."""
        texts = [_text(row[self.config.problem_column]).strip() for row in rows]
        # Of copies the first one is hashed: they need not be the same to the letter.
        first: dict[str, str] = {}
        hashes = [hash_seed("held out", first.setdefault(plain(text), text)) for text in texts]
        bound = sorted(hashes)[max(1, round(self.config.eval_share * len(rows))) - 1]
        held_out = [row for row, value in zip(rows, hashes, strict=True) if value <= bound]
        return [row for row, value in zip(rows, hashes, strict=True) if value > bound], held_out


def as_gold(value: Any) -> str:
    """An answer that can be paid: one that is right if a response boxes it."""
    gold = without_noise(as_answer(value))
    if gold.strip() in NO_VALUE:
        raise BadValue(
            "is what programs write for a missing value (an answer that there is none says so: 'no "
            "solution')",
            gold,
        )
    if not is_right(f"\\boxed{{{gold_text(gold)}}}", gold):
        raise BadValue("cannot be read as an answer, so that no response could be right", gold)
    return gold


def as_gold_of_semicolons(value: Any) -> str:
    """A gold of a table with semicolons: there a comma may be that of a decimal, or between answers."""
    if isinstance(value, str) and DECIMAL_COMMA.fullmatch(value.strip()):
        raise BadValue(
            "has a comma, in a table whose fields are separated by semicolons: is that one number or two "
            "answers? Write 0.5 for a number, '0, 5' for two answers",
            value,
        )
    return as_gold(value)


def _same_gold(one: str, other: str) -> bool:
    """Whether one gold is right where the other is: 1/2 is 0.5."""
    return one == other or is_right(f"\\boxed{{{gold_text(one)}}}", other)


def _messages(problem: str | Messages) -> Messages:
    return ({"role": "user", "content": problem},) if isinstance(problem, str) else problem


def _text(problem: str | Messages) -> str:
    if isinstance(problem, str):
        return problem
    return "\n".join(message["content"] for message in problem)
