"""A run is read as far as it came, and what is damaged is said."""

import os
from dataclasses import replace

import pytest

from isentropic.metrics.report.run_data import read_run


def test_curves_by_policy_version_and_step(make, tmp_path):
    run = read_run(make.run(tmp_path / "a", steps=10))

    assert [(version, step) for version, step, _ in run.curve("entropy/mean")][:3] == [
        (0, 1),
        (8, 2),
        (16, 3),
    ]
    assert run.curve("eval/entropy", start=True) == [(0, 0, 1.62)]


def test_the_start_of_an_older_run_has_the_key_of_today(tmp_path):
    lines = ['{"step": 0, "entropy/mean": 1.5}', '{"step": 1, "entropy/mean": 1.25}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    run = read_run(tmp_path)

    assert run.curve("eval/entropy", start=True) == [(0, 0, 1.5)]
    assert run.curve("entropy/mean", start=True) == [(1, 1, 1.25)]


def test_held_out_scores_stand_at_the_version_they_were_measured_under(make, tmp_path):
    run = read_run(make.run(tmp_path / "a", steps=10))

    assert [point[:2] for point in run.curve("eval/avg_at_k", start=True)] == [
        (0, 0),
        (40, 5),
        (80, 10),
    ]


def test_a_copy_with_other_lines_has_their_curves(make, tmp_path):
    run = read_run(make.run(tmp_path / "a", steps=10))
    assert len(run.curve("entropy/mean")) == 10
    assert len(replace(run, lines=run.lines[:4]).curve("entropy/mean")) == 3  # line 0 is the start


def test_null_is_no_number(make, tmp_path):
    run = read_run(make.run(tmp_path / "a", steps=5))

    assert [step for _, step, _ in run.curve("entropy/prediction_correlation")] == [3, 4, 5]


@pytest.mark.parametrize(
    ("options", "age_s", "status"),
    [
        pytest.param({}, 0, "finished", id="all steps"),
        pytest.param({"done": 7}, 0, "still going: step 7 of 20", id="a young last line"),
        pytest.param({"done": 7}, 3600, "not finished: step 7 of 20", id="an old last line"),
        pytest.param(
            {"done": 7, "alarm": 7},
            0,
            "stopped by alarm: entropy collapse",
            id="an alarm that stops",
        ),
        pytest.param(
            {"done": 7, "alarm": 3}, 0, "still going: step 7 of 20", id="an alarm it went on after"
        ),
        pytest.param({"done": 0}, 0, "still going: step 0 of 20", id="line 0 alone"),
        pytest.param({"done": -1}, 0, "still going: step 0 of 20", id="no line"),
    ],
)
def test_status(make, tmp_path, options, age_s, status):
    folder = make.run(tmp_path / "a", **options)
    written = os.path.getmtime(folder / "metrics.jsonl") - age_s
    os.utime(folder / "metrics.jsonl", (written, written))

    assert read_run(folder).status == status


def test_a_torn_last_line_is_left_out_and_said(make, tmp_path):
    folder = make.run(tmp_path / "a", steps=5)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "entr')

    run = read_run(folder)

    assert run.last_step == 5
    assert any("torn" in note for note in run.notes)


def test_a_damaged_line_in_the_middle_is_refused(make, tmp_path):
    folder = make.run(tmp_path / "a", steps=5)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join([*lines[:2], "garbage\n", *lines[2:]]))

    with pytest.raises(ValueError, match="line 3 is not JSON"):
        read_run(folder)


def test_a_config_that_cannot_be_read_is_said(make, tmp_path):
    folder = make.run(tmp_path / "a", steps=2)
    (folder / "config.yaml").write_text("a: [1,")

    run = read_run(folder)

    assert run.config == {} and run.name == "a"
    assert any("config.yaml cannot be read" in note for note in run.notes)


def test_a_run_known_to_be_over_is_not_still_going(make, tmp_path):
    folder = make.run(tmp_path / "a", done=7)

    assert read_run(folder, ended=True).status == "not finished: step 7 of 20"
