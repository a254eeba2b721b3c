"""Presets name the columns of their data sets: files of that shape are read and graded as they are."""

import json

import pytest

from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.load import load
from isentropic.tasks.math import MathTask

# One row of each, in its own columns and types.
ROWS = {
    "gsm8k": {"question": "48 + 24?", "answer": "It is <<48+24=72>>72.\n#### 72"},
    "math500": {"problem": "Half?", "solution": "...", "answer": "\\frac{1}{2}", "level": 1},
    "aime24": {"id": 60, "problem": "m + n?", "solution": "...", "answer": "204", "year": "2024"},
    "amc23": {"id": 0, "question": "How far?", "answer": "27.0", "url": "..."},
}
RIGHT = {"gsm8k": "72", "math500": "0.5", "aime24": "204", "amc23": "27"}


def task_of(name, *overrides):
    return MathTask(load(compose([f"task={name}", *overrides])).task)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_data_set_is_read_and_graded(tmp_path, name):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROWS[name]))
    task = task_of(name, f"task.path={file}", f"task.eval_path={file}")
    prompt = task.prompt("eval", 0)
    assert prompt.messages[0]["content"].startswith(
        next(t for t in ROWS[name].values() if "?" in str(t))
    )
    assert task.grade(prompt, [f"So \\boxed{{{RIGHT[name]}}}"]) == 1.0
    assert task.grade(prompt, ["So \\boxed{71}"]) == 0.0


@pytest.mark.parametrize("name", [name for name in ROWS if name != "gsm8k"])
def test_a_benchmark_is_never_trained_on_by_default(name):
    with pytest.raises(ValueError, match=r"task\.path has no value"):
        task_of(name)
