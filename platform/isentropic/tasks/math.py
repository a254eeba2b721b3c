"""Mathematical problems with one right answer, from files or the Hub; `answers` says what is right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from isentropic.checks import check_choice, check_range
from isentropic.records import Prompt
from isentropic.seeds import hash_seed
from isentropic.tasks.answers.equal import is_right
from isentropic.tasks.rows import Row, read_rows


@dataclass(frozen=True, kw_only=True)
class MathConfig:
    """Values live in conf/task/math.yaml."""

    name: str
    path: str  # a .jsonl or .parquet file, or the name of a Hub data set
    eval_path: str | None  # held-out problems; null: a share of `path`
    train_split: str  # of Hub data sets
    eval_split: str
    problem_column: str
    answer_column: str
    image_column: str | None  # path of an image that goes with the problem; null: text alone
    limit: int | None  # of each file; null: all rows
    eval_share: float  # held out by a hash of the problem's text, where there is no eval_path
    system_prompt: str | None
    suffix: str  # after the problem: how to write the answer
    reward_right: float
    reward_wrong: float
    on_bad_row: str  # refuse | skip
    on_long_prompt: str  # refuse | drop

    def __post_init__(self) -> None:
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


class MathTask:
    """`prompt_id` is 'math/<split>/<index>'. Reads its files once, at the start; workers get no rows."""

    isolated = True  # parsing what a model wrote can take for ever
    max_turns = 1
    preload = ("math_verify", "latex2sympy2_extended")  # by the server that workers are forked from

    def __init__(self, config: MathConfig) -> None:
        self.config = config
        self.num_skipped = 0
        train = self._read(config.path, config.train_split)
        if config.eval_path is not None:
            held_out = self._read(config.eval_path, config.eval_split)
        else:
            train, held_out = self._split(train)
        self._rows = {"train": train, "eval": held_out}
        for split, rows in self._rows.items():
            if not rows:
                raise ValueError(
                    f"the {split} split of task.path={config.path} is empty with task.eval_share={config.eval_share}. "
                    "Give more rows, another share, or task.eval_path."
                )

    def __getstate__(self) -> dict[str, Any]:
        """Without the rows: a worker grades the prompts it is given."""
        return {**vars(self), "_rows": {}}

    def size(self, split: str) -> int:
        return len(self._rows[split])

    def prompt(self, split: str, index: int) -> Prompt:
        row = self._rows[split][index]
        system = self.config.system_prompt
        messages = ({"role": "system", "content": system},) if system else ()
        problem = {"role": "user", "content": row[self.config.problem_column] + self.config.suffix}
        return Prompt(
            prompt_id=f"math/{split}/{index}",
            messages=(*messages, problem),
            answer=row[self.config.answer_column].strip(),
            media=(row[self.config.image_column],) if self.config.image_column else (),
        )

    def grade(self, prompt: Prompt, turns: Sequence[str]) -> float:
        right = is_right(turns[-1], prompt.answer)
        return self.config.reward_right if right else self.config.reward_wrong

    def reply(self, prompt: Prompt, turns: Sequence[str]) -> str | None:
        return None

    def _read(self, path: str, split: str) -> list[Row]:
        config = self.config
        columns = [config.problem_column, config.answer_column]
        columns += [config.image_column] if config.image_column else []
        rows, skipped = read_rows(
            path, split=split, columns=columns, limit=config.limit, on_bad_row=config.on_bad_row
        )
        self.num_skipped += skipped
        return rows

    def _split(self, rows: list[Row]) -> tuple[list[Row], list[Row]]:
        """Train rows and held-out rows, by the lowest hashes of the problems: copies of a problem stay together."""
        hashes = [hash_seed("held out", row[self.config.problem_column].strip()) for row in rows]
        bound = sorted(hashes)[max(1, round(self.config.eval_share * len(rows))) - 1]
        held_out = [row for row, value in zip(rows, hashes, strict=True) if value <= bound]
        return [row for row, value in zip(rows, hashes, strict=True) if value > bound], held_out
