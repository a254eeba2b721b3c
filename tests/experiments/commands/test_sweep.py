"""Which sweep a command line starts or goes on with."""

import json

import pytest

from isentropic.experiments.commands.sweep import OPTIONS, request, sweep
from isentropic.experiments.run.lock import LOCK
from isentropic.experiments.settings.overrides import read_preset
from isentropic.experiments.sweep.ledger import write_plan

OWN = """
overrides: [experiment=ce_gppo_tiny, run.steps={steps}]
grid: {{ seed: [0, 1] }}
"""


def dry(folder, *arguments):
    return sweep(request(*OPTIONS.parse([*arguments, "dry=true"])), folder)


@pytest.mark.parametrize("again", [["name=ce_gppo_fig6"], ["sweep=ce_gppo_fig6"]])
def test_a_sweep_goes_on_with_the_file_that_it_was_started_with(tmp_path, capsys, again):
    """Also if the name of its folder is that of a preset too."""
    path = tmp_path / "ce_gppo_fig6.yaml"
    path.write_text(OWN.format(steps=7))
    write_plan(tmp_path / "ce_gppo_fig6", [f"sweep={path}"], read_preset(str(path)))
    assert dry(tmp_path, *again, "resume=auto") == 0
    shown = capsys.readouterr().out
    assert shown.count("run.steps=7") == 2 and "2 runs" in shown


def test_a_file_that_has_changed_since_is_another_sweep(tmp_path, capsys):
    """Runs that it no longer names would be dropped, and others made under the sweep's name."""
    path = tmp_path / "own.yaml"
    path.write_text(OWN.format(steps=7))
    write_plan(tmp_path / "own", [f"sweep={path}"], read_preset(str(path)))
    path.write_text("# a remark\n" + OWN.format(steps=7))
    assert dry(tmp_path, "name=own", "resume=auto") == 0
    text = "overrides: [experiment=ce_gppo_tiny]\ngrid: {{{}, {}}}\n"
    axes = ("objective.beta1: [0, 1]", "seed: [0, 1]")
    path.write_text(text.format(*axes))
    write_plan(tmp_path / "order", [f"sweep={path}"], read_preset(str(path)))
    path.write_text(text.format(*reversed(axes)))
    with pytest.raises(
        ValueError, match=r"in grid\. Its content of then"
    ):  # names follow the order
        dry(tmp_path, "name=order", "resume=auto")
    path.write_text(OWN.format(steps=8))
    with pytest.raises(ValueError, match=r"has changed since .*own was started with it, in "):
        dry(tmp_path, "name=own", "resume=auto")


def test_what_is_in_the_plan_twice_is_said(tmp_path, capsys):
    path = tmp_path / "own.yaml"
    path.write_text("settings: {GRPO: [method=grpo], baseline: [method=grpo]}\n")
    dry(tmp_path, f"sweep={path}", "experiment=ce_gppo_tiny", "seed=0,1")
    assert "2 runs (2 points of its plan are runs that are in the list already)" in (
        capsys.readouterr().out
    )


def test_a_sweep_without_a_preset_goes_on_without_one(tmp_path, capsys):
    write_plan(tmp_path / "ce_gppo_fig6", ["experiment=ce_gppo_tiny", "seed=0,1,2"], {})
    assert dry(tmp_path, "sweep=ce_gppo_fig6", "resume=auto") == 0
    assert "3 runs" in capsys.readouterr().out


@pytest.mark.parametrize("resume", [[], ["resume=auto"]])
def test_a_sweep_that_was_killed_before_it_said_what_it_is_can_start(tmp_path, capsys, resume):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / LOCK).write_text("{}")
    assert dry(tmp_path, "name=s", "experiment=ce_gppo_tiny", "seed=0,1", *resume) == 0
    assert "2 runs" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no sweep to resume"):
        dry(tmp_path, "name=s", "resume=auto")
    (tmp_path / "s" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"has no sweep to resume|files that are not a sweep's"):
        dry(tmp_path, "name=s", "experiment=ce_gppo_tiny", "seed=0,1", *resume)


def test_a_sweep_from_before_goes_on_with_an_empty_mapping_that_did_nothing(tmp_path, capsys):
    arguments = ["experiment=ce_gppo_tiny", "alarms.rules={}", "seed=0,1"]
    with pytest.raises(ValueError, match=r"alarms.rules={} changes nothing"):
        dry(tmp_path, "name=new", *arguments)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "sweep.json").write_text(json.dumps({"arguments": arguments}))
    assert dry(tmp_path, "name=old", "resume=auto") == 0
    assert "2 runs" in capsys.readouterr().out
