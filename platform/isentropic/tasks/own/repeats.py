"""Whether a task of the user's own gives its prompts again: else no run of it could be resumed."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from isentropic.tasks.base import Task
from isentropic.tasks.own.task import OwnTask, OwnTaskConfig

FIRST = 8  # prompts of each split that are drawn again
SOURCE = Path(__file__).resolve().parents[3]
CHILD = "from isentropic.tasks.own.repeats import answer; answer()"
SHOWN = 80  # characters of a value that differs
ADVICE = (
    "What it gives must depend on split and index alone, or its runs can be neither repeated nor "
    "resumed: draw from random.Random(f'{split}/{index}'), say; hash() of a text and the order of a "
    "set differ from process to process."
)

Place = tuple[str, int]


def check_repeats(config: Any, task: Task) -> None:
    """Draws the first prompts again, in another order, of an instance in another process.

    In this process the order of a set, and hash(), would be the same again.

    Does nothing for our own tasks.

    Raises:
        ValueError: a size or a prompt differs, or the other process cannot make the task; names
            file, class and what differs.
    """
    if not isinstance(config, OwnTaskConfig) or not isinstance(task, OwnTask):
        return
    where = config.file or config.package
    sizes = {split: task.size(split) for split in ("train", "eval")}
    places = [(split, i) for split, size in sizes.items() for i in range(min(FIRST, size))]
    answer = _asked(config, places, f"{where}: {config.class_name}")
    for split, size in sizes.items():
        if size != answer["sizes"][split]:
            raise ValueError(
                f"{where}: {config.class_name}.size({split!r}) is {size}, and in another process "
                f"{answer['sizes'][split]}. {ADVICE}"
            )
    for place, before, after in zip(places, _said(task, places), answer["prompts"], strict=True):
        for field in before:
            if before[field] != after[field]:
                raise ValueError(
                    f"{where}: {config.class_name}.prompt{place} differs from call to call: "
                    f"{field} was {_short(before[field])}, in another process it is "
                    f"{_short(after[field])}. {ADVICE}"
                )


def answer() -> None:
    """Answers in the other process: config and places on stdin, JSON on stdout."""
    # What the task prints goes to stderr: stdout has the answer and nothing else.
    out = os.dup(1)
    os.dup2(2, 1)
    config, places = pickle.load(sys.stdin.buffer)
    task = OwnTask(config)
    prompts = _said(task, places[::-1])[::-1]
    sizes = {split: task.size(split) for split in ("train", "eval")}
    with os.fdopen(out, "w") as stdout:
        json.dump({"sizes": sizes, "prompts": prompts}, stdout)


def _asked(config: OwnTaskConfig, places: Sequence[Place], name: str) -> dict[str, Any]:
    paths = [str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=pickle.dumps((config, places)),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise ValueError(
            f"{name} works here and fails in another process ({done.returncode}): {said[-1]}"
        )
    return json.loads(done.stdout)


def _said(task: OwnTask, places: Sequence[Place]) -> list[dict[str, Any]]:
    """Returns the fields of prompts as JSON has them, so that both sides can be compared."""
    prompts = [asdict(task.prompt(split, index)) for split, index in places]
    return json.loads(json.dumps(prompts, default=repr))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
