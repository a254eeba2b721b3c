"""The console script: each job is a command, and a wheel is all that it needs."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from isentropic.experiments import console
from isentropic.experiments.completion import candidates
from isentropic.experiments.started import as_started

ROOT = Path(__file__).resolve().parents[2]


def test_each_job_is_a_command_and_is_listed(capsys):
    assert console.main(["--help"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:1] == " "}

    assert listed == {path.stem for path in (ROOT / "jobs").glob("*.py")}


def test_no_command_and_a_misspelled_one_are_bad_input(capsys):
    assert console.main([]) == 2
    assert console.main(["tarin", "seed=1"]) == 2
    assert "Did you mean 'train'" in capsys.readouterr().err


def test_a_command_reads_the_arguments_after_its_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["isentropic", "export", "stepp=3"])
    assert console.main() == 2
    assert "unknown option 'stepp'" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["isentropic", "export", "--help"])
    assert console.main() == 0
    assert "to=<folder>" in capsys.readouterr().out


def test_messages_name_the_command_that_was_typed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["isentropic", "sweep", "--help"])
    assert console.main() == 0
    assert "isentropic sweep experiment=ce_gppo_tiny" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["isentropic", "train", "--help"])
    with pytest.raises(SystemExit):  # by Hydra
        console.main()
    assert "Trains one run: isentropic train experiment=ce_gppo_tiny" in capsys.readouterr().out
    assert as_started("try python jobs/report.py a (jobs/submit.py)") == (
        "try isentropic report a (isentropic submit)"
    )
    monkeypatch.setattr(sys, "argv", ["jobs/sweep.py"])
    assert as_started("try python jobs/report.py a") == "try python jobs/report.py a"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("isentropic rep", ["replay ", "report "]),
        ("isentropic train mod", ["model.", "model="]),
        ("isentropic train learner.lr", ["learner.lr=", "learner.lr_schedule="]),
        ("isentropic train task=ma", ["task=math ", "task=math500 "]),
        ("isentropic train task=math task.pro", ["task.problem_column="]),
        ("isentropic train task=nope task.lev", ["task.levels="]),  # as if it were not there
        ("isentropic train rollout.g", ["rollout.group_size="]),
        ("isentropic sweep name=x ear", ["early_stop="]),
        ("isentropic sweep objective.b", ["objective.beta1=", "objective.beta2="]),
        ("isentropic branch run=de", ["run=demo "]),
        ("isentropic report de", ["demo "]),
        ("isentropic submit tr", ["train "]),
        ("isentropic submit train addr", ["address="]),
        ("isentropic submit train experiment=ce_gppo_7", ["experiment=ce_gppo_7b "]),
        ("isentropic tarin x", []),
    ],
)
def test_what_tab_offers(line, expected, monkeypatch, tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "config.yaml").touch()
    monkeypatch.setenv("ISENTROPIC_RUNS", str(tmp_path))
    assert candidates(line, list(console.COMMANDS)) == expected


@pytest.mark.parametrize("flag", ["--config-dir {}", "--config-dir={}"])
def test_tab_knows_presets_of_ones_own(flag, tmp_path):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mathematics.yaml").write_text("defaults: [math, _self_]")
    line = f"isentropic train {flag.format(tmp_path)} task=math"
    assert candidates(line, list(console.COMMANDS)) == [
        "task=math ",
        "task=math500 ",
        "task=mathematics ",
    ]
    assert candidates(f"{line}ematics task.path", list(console.COMMANDS)) == ["task.path="]
    assert candidates("isentropic train task=mathe", list(console.COMMANDS)) == []


def test_a_shell_without_a_script_is_refused_and_prints_nothing_to_evaluate(capsys):
    assert console.main(["completion", "fish"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "must be one of bash, zsh; got 'fish'" in captured.err
    for asked in ([], ["--help"]):
        assert console.main(["completion", *asked]) == 0
        assert "completion zsh" in capsys.readouterr().out


def put_command(folder):
    command = folder / "isentropic"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m isentropic.experiments.console "$@"\n')
    command.chmod(0o755)


def test_bash_completes_as_documented(tmp_path):
    """The script is evaluated as the help says; bash cuts words at `=`, and puts them together."""
    put_command(tmp_path)
    script = f"""
        PATH={tmp_path}:$PATH
        eval "$(isentropic completion bash)"
        complete -p isentropic >/dev/null || exit 1
        COMP_LINE='isentropic train task=ma' COMP_POINT=24
        _isentropic isentropic
        printf '%s|' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT / "platform")},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("math |math500 |", "")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
def test_zsh_completes_as_documented(tmp_path):
    """An interactive zsh, since completion works nowhere else: whole words, and what goes on."""
    put_command(tmp_path)
    script = f"""
        zmodload zsh/zpty
        zpty z zsh -f -i
        zpty -w z 'PATH={tmp_path}:$PATH; eval "$(isentropic completion zsh)"' && sleep 4
        zpty -n -w z $'isentropic train task=math5\\t' && sleep 4
        while zpty -r -t z said; do print -rn -- $said; done
    """
    done = subprocess.run(
        ["zsh", "-f", "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT / "platform"), "TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "task=math500 " in done.stdout, done.stderr


@pytest.mark.slow
def test_a_wheel_runs_in_an_empty_folder(tmp_path):
    """conf/ travels in it, with the templates of the report; nothing is read from a checkout."""
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    shutil.copytree(ROOT / "platform", tree / "platform", symlinks=True, ignore=ignored)
    shutil.copytree(ROOT / "conf", tree / "conf")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    build = ["-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", "wheels"]
    subprocess.run([sys.executable, *build], cwd=tree, check=True, timeout=300)
    (wheel,) = (tree / "wheels").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    shutil.rmtree(tree)
    (empty := tmp_path / "empty").mkdir()

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "isentropic.experiments.console", *arguments],
            cwd=empty,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
            capture_output=True,
            text=True,
            timeout=120,
        )

    composed = run("train", "experiment=ce_gppo_tiny", "objective.beta1=0.3", "--cfg", "job")
    assert composed.returncode == 0, composed.stderr
    assert "beta1: 0.3" in composed.stdout
    refused = run("submit", "train", "experiment=ce_gppo_tiny")
    assert refused.returncode == 2 and "Submit from a checkout" in refused.stderr
    assert list(empty.iterdir()) == []
