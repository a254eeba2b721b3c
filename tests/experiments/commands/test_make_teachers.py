"""Teacher files come out with the task's own rewards."""

import json

from isentropic.experiments.commands.make_teachers import main
from isentropic.methods.oger.teachers import read_teachers


def test_the_solver_writes_right_answers_in_three_styles(tmp_path, capsys):
    out = tmp_path / "teachers.jsonl"
    main([f"out={out}", "prompts=5", "samples=2", "task.levels=[3x1]"])
    rows = read_teachers(out)
    assert {row.teacher for row in rows} == {"steps", "sums", "direct"}
    assert all(row.reward == 1.0 for row in rows)
    assert len({row.prompt_id for row in rows}) == 5
    assert "teachers, " in capsys.readouterr().out


def test_given_responses_are_graded_by_the_task(tmp_path):
    problems, given, out = (
        tmp_path / "problems.jsonl",
        tmp_path / "given.jsonl",
        tmp_path / "graded.jsonl",
    )
    problems.write_text(
        "".join(json.dumps({"problem": f"{k}+1=?", "answer": str(k + 1)}) + "\n" for k in range(40))
    )
    rows = [
        {"prompt_id": "math/train/0", "teacher": "t", "response": answer}
        for answer in (r"\boxed{1}", r"\boxed{7}", "")
    ]
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main([f"out={out}", f"grade={given}", "task=math", f"task.path={problems}"])
    assert [row.reward for row in read_teachers(out)] == [1.0, 0.0, 0.0]


def test_responses_to_unknown_prompts_are_refused(tmp_path, capsys):
    given = tmp_path / "given.jsonl"
    given.write_text(json.dumps({"prompt_id": "nowhere", "teacher": "t", "response": "1"}) + "\n")
    assert main([f"out={tmp_path}/out.jsonl", "--grade", str(given), "task.train_size=10"]) == 2
    message = capsys.readouterr().err
    assert f"--grade is now grade={given}" in message and "'nowhere'" in message
