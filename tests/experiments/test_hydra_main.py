"""Hydra in front of a job: exit codes, short messages with the nearest name, nothing on disk for what is refused."""

import errno
import json
import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from isentropic.checks import check_range
from isentropic.experiments.hydra_main import hydra_main
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.conf import CONF, preset_path, take_config_dirs

PLATFORM = Path(__file__).resolve().parents[2] / "platform"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs a job in an empty folder with the given arguments; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments, job=lambda config, cfg: None):
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        try:
            code = hydra_main(job)()
        except SystemExit as end:  # by a signal, or by Hydra's own --help
            code = end.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield run
    signal.signal(signal.SIGTERM, before)


def fault(config, cfg):
    json.loads("{")  # raises a ValueError, but not one of ours


def no_room(config, cfg):
    Path(config.run.dir).mkdir(parents=True)
    raise OSError(errno.ENOSPC, "Error writing bytes to file")


def bad_data(config, cfg):
    check_range("task.limit", 0, at_least=1)


@pytest.mark.parametrize(
    ("job", "code", "message"),
    [
        pytest.param(lambda config, cfg: None, 0, "", id="done"),
        pytest.param(lambda config, cfg: 75, 75, "", id="stopped, resumable"),
        pytest.param(
            bad_data, 2, "error: task.limit must be >= 1, got 0.", id="bad input that the job found"
        ),
        pytest.param(
            lambda config, cfg: signal.raise_signal(signal.SIGTERM),
            75,
            "",
            id="stopped before it began",
        ),
        pytest.param(fault, 1, "Traceback", id="a fault keeps its traceback"),
        pytest.param(no_room, 1, "MiB are free in runs/train, ", id="a full disk says what to do"),
    ],
)
def test_exit_codes(run, job, code, message):
    exit_code, _, err = run(job=job)

    assert exit_code == code
    assert message in err


def test_hydra_leaves_our_warnings_on(run, caplog):
    log = logging.getLogger("isentropic.tests.older_than_the_command")

    run(job=lambda config, cfg: log.warning("an engine is started again"))

    assert [record.message for record in caplog.records] == ["an engine is started again"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["objective.beta3=1"], "Did you mean 'objective.beta", id="key of a slot"),
        pytest.param(["learner.lrr=1"], "Did you mean 'learner.lr'?", id="key of a section"),
        pytest.param(["lr=1"], "Did you mean 'learner.lr'", id="key without its section"),
        pytest.param(
            ["shaping=overlong", "shaping.factor=1.0", "shaping=none"],
            "shaping=none has no factor. Choose shaping=overlong.",
            id="key of a choice that another replaced",
        ),
        pytest.param(["objectve=clip"], "Did you mean 'objective'?", id="group"),
        pytest.param(["objective=ce_gpo"], "Did you mean 'ce_gppo'?", id="choice"),
        pytest.param(
            ["method=[nope]"], "method=nope is not a choice. method may be", id="choice in a list"
        ),
        pytest.param(["experiment=nope"], "experiment may be", id="experiment"),
        pytest.param(["+learner.foo=1"], "'learner.foo'", id="key that was forced in"),
        pytest.param(
            ["method=papo", "+papo.alpha2=1"],
            "Did you mean 'papo.alpha'?",
            id="key of a preset's section",
        ),
        pytest.param(
            ["method=papo", "seed=1", "method=[dapo,erc]"],
            "method is given twice: method=papo and method=[dapo,erc]. 'method=[papo,dapo,erc]'",
            id="a method after another",
        ),
        pytest.param(["+papo.alpha=0.1"], "no slot reads it", id="preset's key without the preset"),
        pytest.param(
            ["accounting.counterfactuals={mine: {name: gspo}}"],
            "like '+accounting.counterfactuals.NAME={name: clip, ratio: token, ",
            id="entries of one's own in a section that has others",
        ),
        pytest.param(
            ["alarms.rules.mine.value=3"],
            "like '+alarms.rules.mine={metric: entropy/mean, kind: below, ",
            id="key of an entry that is not there",
        ),
        pytest.param(
            ["alarms.rules.kl_drift.vale=3"],
            "Did you mean 'alarms.rules.kl_drift.value'?",
            id="misspelled key of an entry that is there",
        ),
        pytest.param(["learner.lr=fast"], "learner.lr must be a number", id="type"),
        pytest.param(["x y=["], "cannot read 'x y=['", id="grammar"),
        pytest.param(["seed=1,2"], "--multirun", id="a sweep without -m"),
        pytest.param(
            ["method=[dapo,uec_rl]"],
            "method=dapo and method=uec_rl both set",
            id="presets that clash",
        ),
    ],
)
def test_bad_input(run, tmp_path, arguments, message):
    code, _, err = run(*arguments)

    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_clash_is_settled_on_the_command_line(run):
    seen = []
    code, _, _ = run(
        "method=[dapo,uec_rl]", "objective=clip", "sampling=one_wave", "filter=drop_flat",
        job=lambda config, cfg: seen.append((config.objective.name, config.shaping.name)),
    )  # fmt: skip

    assert code == 0
    assert seen == [("clip", "overlong")]


def own_presets(folder):
    for name, text in {
        "task/short.yaml": "defaults: [arithmetic, _self_]\nlevels: [2x1]",
        "method/mine.yaml": "# @package _global_\ndefaults: [dapo, _self_]\nseed: 7",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_presets_of_a_folder_of_ones_own(run, tmp_path):
    folder = own_presets(tmp_path / "my presets")
    seen = []
    code, _, err = run(
        "--config-dir", str(folder), "task=short", "method=mine",
        job=lambda config, cfg: seen.append((config.task.levels, config.seed, cfg.run.preset)),
    )  # fmt: skip
    assert (code, seen) == (0, [(("2x1",), 7, "mine")]), err
    code, _, err = run(f"--config-dir={folder}", "task=shrt")
    assert code == 2 and "Did you mean 'short'" in err
    code, _, err = run("task=short")  # of this command line, not of the last one
    assert code == 2 and "task=short is not a choice" in err


def test_presets_that_would_hide_ours(run, tmp_path):
    folder = own_presets(tmp_path / "conf")
    code, _, err = run("--config-dir", f"{folder}x")
    assert code == 2 and f"--config-dir {folder}x is no folder" in err
    theirs = folder / "task" / "math.yaml"
    theirs.write_text("defaults: [arithmetic, _self_]")
    (folder / "task" / "mine.yaml").write_text("defaults: [math, _self_]")
    code, _, err = run("--config-dir", str(folder), "task=short", "method=mine")
    assert code == 0, err  # a file that nothing chooses is no matter
    for chosen in ("task=math", "task=mine"):  # mine begins with it
        code, _, err = run("--config-dir", str(folder), chosen, "task.path=p.csv")
        assert code == 2 and f"task=math is two files, {CONF}/task/math.yaml and {theirs}:" in err


def test_the_api_and_other_commands_refuse_a_name_of_two_files(tmp_path):
    theirs = own_presets(tmp_path) / "sweep" / "beta.yaml"
    theirs.parent.mkdir()
    theirs.touch()
    (tmp_path / "method" / "dapo.yaml").write_text("seed: 8")
    take_config_dirs([f"--config-dir={tmp_path}"])
    try:
        assert compose(["method=papo"]).seed == 0
        with pytest.raises(ValueError, match="method=dapo is two files"):
            compose(["method=mine"])
        with pytest.raises(ValueError, match="method=dapo is two files"):
            preset_path("method", "dapo")
        assert preset_path("sweep", "beta") == theirs
    finally:
        take_config_dirs([])


def test_multirun_gives_every_job_its_own_folder_and_goes_on_after_a_failure(run):
    folders = []

    def job(config, cfg):
        folders.append(config.run.dir)
        check_range("seed", config.seed, at_least=1)

    code, _, err = run("-m", "seed=0,1,2", job=job)

    assert code == 2
    assert "seed must be >= 1, got 0" in err
    assert [folder.rpartition("-")[0] for folder in folders] == [
        f"runs/train-seed_{seed}" for seed in (0, 1, 2)
    ]


def test_the_whole_config_is_shown(run):
    _, out, _ = run("--cfg", "job", "--resolve", "run.name=here")

    assert "dir: runs/here" in out


def test_no_heavy_import_before_a_config_is_composed_and_none_to_read_a_run():
    names = [
        f"isentropic.experiments.{name}"
        for name in ("hydra_main", "commands.report", "commands.show")
    ]
    script = f"import sys, {', '.join(names)}; print({{'torch', 'ray', 'vllm'}} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(PLATFORM)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert answer.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.dir=null", "error: run.dir must be text, got None"),
        ("alarms.rules={}", "error: alarms.rules={} changes nothing"),
    ],
)
def test_values_that_are_nothing(run, override, message):
    code, _, stderr = run(override)
    assert code == 2 and message in stderr
