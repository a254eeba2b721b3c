"""Teacher responses by prompt: from JSONL or parquet files, or made for the embedded task.

A row names `prompt_id`, `teacher`, `response`, and what is known of its correctness: `reward` (the
task's own) or `verified` (true or false). [source] OGER (arXiv:2604.18530) keeps verified responses
only. [reconstructed] responses over the response limit are dropped; a row without a verdict is
graded by the task when its prompt is first drawn.
"""

import json
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from isentropic.records import Prompt
from isentropic.seeds import hash_seed
from isentropic.tasks.arithmetic import STYLES, demonstration
from isentropic.tasks.base import Task

EMBEDDED = "embedded"  # oger.teachers: the solver of the embedded task, one teacher per style
COLUMNS = ("prompt_id", "teacher", "response")
CORPUS = 512  # responses that encoders fit their statistics on


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherResponse:
    """One response of a teacher."""

    prompt_id: str
    teacher: str
    text: str
    reward: float = float("nan")  # the task's; NaN: not graded yet


class TeacherSource(Protocol):
    """The offline set."""

    def responses(self, prompt: Prompt) -> Sequence[TeacherResponse]:
        """All responses to the prompt, in a fixed order; () if there are none."""
        ...

    def corpus(self) -> Sequence[str]:
        """Up to `CORPUS` response texts, the same ones always."""
        ...


class TeacherTable:
    """Responses held in memory."""

    def __init__(self, rows: Iterable[TeacherResponse]) -> None:
        self._by_prompt: dict[str, list[TeacherResponse]] = {}
        for row in rows:
            self._by_prompt.setdefault(row.prompt_id, []).append(row)

    def responses(self, prompt: Prompt) -> Sequence[TeacherResponse]:
        return self._by_prompt.get(prompt.prompt_id, ())

    def corpus(self) -> Sequence[str]:
        return [row.text for rows in self._by_prompt.values() for row in rows][:CORPUS]


class ArithmeticTeachers:
    """A solver of the embedded task, one teacher per style; it is always right."""

    def __init__(self, task: Task, samples: int = 1) -> None:
        self._task, self._samples = task, samples

    def responses(self, prompt: Prompt) -> Sequence[TeacherResponse]:
        return [
            TeacherResponse(prompt_id=prompt.prompt_id, teacher=style, text=text, reward=1.0)
            for style in STYLES
            for text in self._texts(prompt, style)
        ]

    def _texts(self, prompt: Prompt, style: str) -> list[str]:
        """Different texts only: a style may have fewer ways to write a sum than `samples`."""
        weights = [float(style == other) for other in STYLES]
        seeds = (
            hash_seed("teacher", style, sample, prompt.prompt_id) for sample in range(self._samples)
        )
        return list(
            dict.fromkeys(demonstration(prompt, random.Random(seed), weights) for seed in seeds)
        )

    def corpus(self) -> Sequence[str]:
        count = min(self._task.size("train"), CORPUS // len(STYLES))
        prompts = (self._task.prompt("train", index) for index in range(count))
        return [row.text for prompt in prompts for row in self.responses(prompt)][:CORPUS]


def load_source(teachers: str | Sequence[str] | None, task: Task) -> TeacherSource | None:
    """The offline set that `oger.teachers` names: null, 'embedded', or one or several files."""
    if teachers is None:
        return None
    if teachers == EMBEDDED:
        if not task.prompt("train", 0).prompt_id.startswith("arithmetic/"):
            raise ValueError(
                f"oger.teachers is {EMBEDDED!r}, but only task=arithmetic has a solver. Name "
                "JSONL or parquet files of teacher responses "
                f"(columns {', '.join(COLUMNS)}), or write null for none."
            )
        return ArithmeticTeachers(task)
    paths = [teachers] if isinstance(teachers, str) else teachers
    return TeacherTable(row for path in paths for row in read_teachers(Path(path)))


def read_teachers(path: Path) -> list[TeacherResponse]:
    """All rows of a .jsonl or .parquet file.

    Raises:
        ValueError: the file is missing, empty or of another kind, or a row is malformed.
    """
    if not path.is_file():
        raise ValueError(
            f"oger.teachers: no file {path}. "
            "Make one with jobs/make_teachers.py, or write null for none."
        )
    rows = [_response(path, number, row) for number, row in _rows(path)]
    if not rows:
        raise ValueError(f"oger.teachers: {path} has no rows. Each needs {', '.join(COLUMNS)}.")
    return rows


def write_teachers(path: Path, rows: Iterable[TeacherResponse]) -> int:
    """Writes JSONL; returns the number of rows."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            count += 1
            entry: dict[str, Any] = {
                "prompt_id": row.prompt_id,
                "teacher": row.teacher,
                "response": row.text,
            }
            if not math.isnan(row.reward):
                entry["reward"] = row.reward
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    return count


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            yield from enumerate(pq.read_table(path).to_pylist(), start=1)
        except pa.ArrowException as error:
            raise ValueError(
                f"oger.teachers: {path} is not readable as parquet ({error})."
            ) from error
        return
    if path.suffix != ".jsonl":
        raise ValueError(f"oger.teachers: {path} must end in .jsonl or .parquet.")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"oger.teachers: {path}, row {number} is not JSON ({error})."
                ) from error


def _response(path: Path, number: int, row: Any) -> TeacherResponse:
    if not isinstance(row, Mapping):
        raise ValueError(f"oger.teachers: {path}, row {number} must be an object, got {row!r}.")
    for column in COLUMNS:
        if not isinstance(row.get(column), str):
            raise ValueError(
                f"oger.teachers: {path}, row {number}: {column} must be text, "
                f"got {row.get(column)!r}."
            )
    verdict = row.get("reward", row.get("verified"))
    if verdict is not None and not isinstance(verdict, bool | int | float):
        raise ValueError(
            f"oger.teachers: {path}, row {number}: reward must be a number, got {verdict!r}."
        )
    if verdict is not None and abs(verdict) == math.inf:
        raise ValueError(
            f"oger.teachers: {path}, row {number}: reward must be finite, got {verdict!r}."
        )
    return TeacherResponse(
        prompt_id=row["prompt_id"],
        teacher=row["teacher"],
        text=row["response"],
        reward=float("nan") if verdict is None else float(verdict),
    )
