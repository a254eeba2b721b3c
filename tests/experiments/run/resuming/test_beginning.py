"""A resume with an allowed change: what the old config drew is drawn again, once the start succeeded."""

import json
from pathlib import Path

import pytest
import yaml

from isentropic.controller.storage.checkpoints import Manifest
from isentropic.experiments.run.folder import check_run_folder, write_run_folder
from isentropic.experiments.run.resuming.beginning import Beginning
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.load import load

FIRST = ["experiment=ce_gppo_tiny", "tracking.wandb=disabled", "run.steps=9"]


def composed(folder, *overrides):
    cfg = compose([*FIRST, f"run.dir={folder}", *overrides])
    return load(cfg), cfg


@pytest.fixture
def run(tmp_path):
    """A run of nine steps that was killed in step 8; the caller says what it began with."""

    def make(*overrides):
        write_run_folder(*composed(tmp_path, *overrides))
        (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
        for folder in ("rollouts", "trained"):
            (tmp_path / folder).mkdir(exist_ok=True)
            for step in range(1, 9):
                (tmp_path / folder / f"step_{step:06d}.parquet").touch()
        return tmp_path

    return make


def beginning(run, *overrides):
    """The beginning of a resume, and what it says."""
    config, cfg = composed(run, "resume=auto", *overrides)
    check_run_folder(config, cfg)
    write_run_folder(config, cfg)
    said = []
    return Beginning(config, cfg, None, said.append), said


def after(step, **rollout):
    about = {"config": {"rollout": rollout}} if rollout else {}
    return Path(), Manifest(step=step, policy_version=0, next_draw=0, about=about, files={})


def left(run, folder="rollouts"):
    return [int(path.stem[-6:]) for path in sorted((run / folder).glob("step_*"))]


def group_size(path):
    return yaml.safe_load(path.read_text())["rollout"]["group_size"]


LARGER = ("rollout.group_size=32", "resume.allow_changes=[rollout,sampling]")


def test_steps_behind_the_start_are_drawn_again(run):
    folder = run()
    new, said = beginning(folder, *LARGER)
    new.begin(after(5))

    assert left(folder) == left(folder, "trained") == [1, 2, 3, 4, 5]
    assert len(list(folder.glob("set_aside/1/rollouts/*"))) == 3
    (line,) = said
    assert "rollout.group_size: 8 -> 32" in line and "steps 6 to 8 were drawn before" in line
    (change,) = json.loads((folder / "changes.json").read_text())
    assert change["after"] == 5 and "group_size" in change["changes"][0]


def test_what_staleness_needs_stays(run):
    """Of a checkpoint that was made with staleness 2, the next two steps are older than it."""
    folder = run("rollout.max_staleness=2")
    new, said = beginning(folder, "rollout.max_staleness=2", *LARGER)
    new.begin(after(5, max_staleness=2))

    assert (left(folder), left(folder, "trained")) == ([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5])
    assert "up to 7 stays" in said[1]


def test_a_lower_staleness_leaves_no_prompt_out(run):
    """The position in the data order is behind what the checkpoint's own staleness had drawn."""
    folder = run("rollout.max_staleness=2")
    allow = "resume.allow_changes=[rollout.max_staleness]"
    new, _ = beginning(folder, "rollout.max_staleness=0", allow)
    new.begin(after(5, max_staleness=2))
    assert left(folder) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["run.steps=20"],
        ["rollout.num_actors=2", "resume.allow_changes=[rollout.num_actors]"],
        ["cluster.health_timeout_s=50"],
    ],
)
def test_nothing_else_is_drawn_again(overrides, run):
    folder = run()
    new, said = beginning(folder, *overrides)
    new.begin(after(5))
    assert (left(folder), said) == (list(range(1, 9)), [])
    assert not (folder / "changes.json").exists()


def test_a_killed_resume_goes_on_with_what_it_drew_and_one_that_goes_back_does_not(run):
    folder = run()
    beginning(folder, *LARGER)[0].begin(after(5))
    (folder / "rollouts" / "step_000006.parquet").touch()
    again, said = beginning(folder, *LARGER)
    again.begin(after(5))
    assert (left(folder), said) == ([1, 2, 3, 4, 5, 6], [])

    again.begin(after(3))  # its learner was lost, and the checkpoint of step 5 is damaged
    assert left(folder) == [1, 2, 3]
    assert "the steps behind 5, where a resume changed it: steps 4 to 6" in said[0]
    (folder / "rollouts" / "step_000004.parquet").touch()
    beginning(folder, *LARGER)[0].begin(after(3))
    assert left(folder) == [1, 2, 3, 4]


def test_a_start_that_fails_leaves_the_config_and_the_steps_as_they_were(run):
    folder = run()
    beginning(folder, *LARGER)  # and no `begin`
    assert left(folder) == list(range(1, 9))
    assert group_size(folder / "config.yaml") == 8
    beginning(folder)  # the command of before is not refused


def test_the_config_of_the_steps_before_is_kept(run):
    folder = run()
    beginning(folder, *LARGER)[0].begin(after(5))
    assert group_size(folder / "config.yaml") == 32
    assert group_size(folder / "config.1.yaml") == 8
    assert "after step 5" in (folder / "config.1.yaml").read_text().splitlines()[0]
    beginning(folder, *LARGER)[0].begin(after(5))
    assert not (folder / "config.2.yaml").exists()


def test_another_slot_is_said_before_anything_starts(run):
    folder = run()
    allow = ["resume.allow_changes=[reuse,uec,filter,sampling,objective,terms,run]"]
    new, _ = beginning(folder, "method=uec_rl", *allow)
    assert ["reuse: none -> queue_replay" in line for line in new.remarks] == [True]


def test_other_actuators_are_said_too(run):
    folder = run("method=ce_gppo_steered")
    allow = "resume.allow_changes=[steering]"
    new, _ = beginning(folder, "method=ce_gppo_steered", "steering.actuators.beta2=null", allow)
    (line,) = new.remarks
    assert line.startswith("steering: steered with other actuators: it begins anew")


def test_a_dry_run_says_what_would_be_drawn_again(run):
    new, said = beginning(run(), *LARGER)
    assert "rollout.group_size: 8 -> 32" in new.outlook[0]
    assert "drawn again" in new.outlook[0] and said == []


def test_a_damaged_record_is_named_before_anything_starts(run):
    folder = run()
    (folder / "changes.json").write_text("{")
    with pytest.raises(ValueError, match=r"changes\.json cannot be read"):
        beginning(folder)


def test_w_and_b_keeps_the_lines_that_it_has(run):
    folder = run()
    (folder / "wandb_run.json").write_text("{}")
    new, said = beginning(folder, *LARGER)
    new.begin(after(5))
    assert "W&B takes no step twice" in said[-1]


def test_other_code_is_a_change(run, tmp_path_factory):
    """What a reward paid is in the ledger: another reward pays something else."""
    reward = tmp_path_factory.mktemp("own") / "mine.py"
    own = [
        "task=rows",
        f"task.path={Path(__file__).parent / 'no_such.jsonl'}",
        f"+task.reward={{file: {reward}, function: pay}}",
    ]
    reward.write_text("def pay(prompt, response):\n    return 1.0\n")
    folder = run(*own)
    reward.write_text("def pay(prompt, response):\n    return 0.0\n")
    new, said = beginning(folder, *own, "resume.allow_changes=[task.reward]")
    new.begin(after(5))
    assert "task.reward: other code" in said[0]
    copies = sorted((folder / "code" / "task.reward").iterdir())
    assert [copy.read_text()[-5:-1] for copy in copies] == [" 0.0", " 1.0"]
