"""Behind which step a run has another config than before it."""

import pytest

from isentropic.experiments.run.recorded import RecordedRun
from isentropic.experiments.run.resuming import record
from isentropic.experiments.run.resuming.record import add_change, last_change


def test_the_last_change_counts(tmp_path):
    assert last_change(tmp_path) == 0
    add_change(tmp_path, after=20, drawn=21, changes=["seed: 0 -> 1"])
    assert last_change(tmp_path) == 20
    add_change(tmp_path, after=10, drawn=10, changes=["it went back"])
    assert last_change(tmp_path) == 10


@pytest.mark.parametrize("written", ["", "[", "{}x", "[1]", '[{"after": "20"}]', '[{"drawn": 2}]'])
def test_a_damaged_record_is_named(written, tmp_path):
    (tmp_path / record.CHANGES).write_text(written)
    with pytest.raises(
        ValueError, match=r"changes\.json cannot be read.*restore it, or write \[\]"
    ):
        last_change(tmp_path)


def test_steps_of_another_config_are_trained_again_with_a_word(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("isentropic.experiments.run.recorded.read_batch", lambda *a, **k: "batch")
    add_change(tmp_path, after=20, drawn=20, changes=["seed: 0 -> 1"])
    run = RecordedRun(tmp_path)
    run.batch(21)
    assert capsys.readouterr().err == ""
    run.batch(20)
    run.batch(19)
    assert capsys.readouterr().err.count("a resume changed the config of") == 1
