"""Teacher responses by prompt: from JSONL or parquet files, or made for the embedded task.

A row names `prompt_id`, `teacher`, `response`, and what is known of its correctness: `reward` (the
task's own) or `verified` (true or false). [source] OGER (arXiv:2604.18530) keeps verified responses
only. [reconstructed] responses over the response limit are dropped; a row without a verdict is
graded by the task when its prompt is first drawn.
"""

import json
import math
import random
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from isentropic.records import Prompt
from isentropic.seeds import hash_seed
from isentropic.tasks.arithmetic import STYLES, demonstration
from isentropic.tasks.base import Task
from isentropic.tasks.data.repeated import parse, repeated_column, repeated_key

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
    verified: bool = False  # right, whatever the task pays for it: `reward` is not the task's then


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
            TeacherResponse(
                prompt_id=prompt.prompt_id, teacher=style, text=text, reward=prompt.reward_right
            )
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
            table = pq.ParquetFile(path)
            if repeated := repeated_column(table.schema_arrow):
                raise ValueError(
                    f"oger.teachers: {path} has {repeated[1]} columns named {repeated[0]!r}. Rename "
                    "all but one of them."
                )
            yield from enumerate(table.read().to_pylist(), start=1)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise ValueError(
                f"oger.teachers: {path} is not readable as parquet ({error})."
            ) from error
        return
    if path.suffix != ".jsonl":
        raise ValueError(f"oger.teachers: {path} must end in .jsonl or .parquet.")
    # Bytes that are not UTF-8 are read as surrogates and refused in their row: decoding ahead of
    # the rows could not name it.
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            yield number, _json(path, number, line)


def _json(path: Path, number: int, line: str) -> Any:
    row = f"oger.teachers: {path}, row {number}"
    try:
        line.encode("utf-8")
        value = parse(line)
    except UnicodeEncodeError as error:
        raise ValueError(f"{row} is not UTF-8. Save the file as UTF-8.") from error
    except RecursionError as error:
        raise ValueError(f"{row} is nested too deep for JSON.") from error
    # Not JSONDecodeError alone: a number of more digits than Python converts is a ValueError.
    except ValueError as error:
        raise ValueError(f"{row} is not JSON ({error}).") from error
    if (key := repeated_key(value)) is not None:
        raise ValueError(f"{row} has the key {key!r} twice. Rename or remove one of them.")
    return value


def _response(path: Path, number: int, row: Any) -> TeacherResponse:
    if not isinstance(row, Mapping):
        raise ValueError(
            f"oger.teachers: {path}, row {number} must be an object, got {reprlib.repr(row)}."
        )
    for column in COLUMNS:
        if not isinstance(row.get(column), str):
            raise ValueError(
                f"oger.teachers: {path}, row {number}: {column} must be text, "
                f"got {reprlib.repr(row.get(column))}."
            )
    verdict = row.get("reward")
    # A table has both columns, and null or NaN where there is none.
    if verdict is None or verdict != verdict:
        verdict = row.get("verified", verdict)
    return TeacherResponse(
        prompt_id=row["prompt_id"],
        teacher=row["teacher"],
        text=row["response"],
        reward=_reward(path, number, verdict),
        verified=verdict is True,
    )


def _reward(path: Path, number: int, verdict: Any) -> float:
    """Returns the verdict as a number; NaN if there is none."""
    if verdict is None:
        return math.nan
    try:
        reward = float(verdict) if isinstance(verdict, bool | int | float) else math.inf
    except OverflowError:  # a whole number of more than 308 digits
        reward = math.inf
    if math.isinf(reward):
        raise ValueError(
            f"oger.teachers: {path}, row {number}: reward must be a number, and a finite one, got "
            f"{reprlib.repr(verdict)}."
        )
    return reward
