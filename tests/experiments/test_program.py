"""Every command ends with the same codes and the same words, whatever it does."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from isentropic.checks import check_range
from isentropic.controller.protocols import NotStarted
from isentropic.experiments.program import BAD_INPUT, FAULT, INTERRUPTED, RESUMABLE, exit_code
from isentropic.experiments.program import program as make_program
from isentropic.experiments.settings.options import Commands, Option, Options, count, flag, path

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = Options(
    "cook",
    "Cooks: python jobs/cook.py pot=<name>",
    (
        Option("pot", "<name>", "the pot", path, required=True),
        Option("minutes", "<count>", "how long", count),
        Option("stir", "true|false", "whether", flag),
    ),
    words="pot",
    old={"--stir": "stir=true", "--minutes": "minutes="},
)


def bad(*_):
    check_range("salt", 0, at_least=1)


def gone(*_):
    raise ConnectionError("the kitchen is gone.")


def foreign(*_):
    json.loads("{")


def ends(error):
    def job(*_):
        raise error

    return job


@pytest.fixture(autouse=True)
def _signals():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def program(job, options=OPTIONS, **more):
    return make_program(job, options, **more)


@pytest.mark.parametrize(
    ("job", "code", "message"),
    [
        pytest.param(lambda *_: None, 0, "", id="done"),
        pytest.param(lambda *_: 3, 3, "", id="a code of its own"),
        pytest.param(bad, BAD_INPUT, "error: salt must be >= 1, got 0.", id="bad input"),
        pytest.param(foreign, FAULT, "Traceback", id="a ValueError of a library is a fault"),
        pytest.param(
            ends(NotStarted("Ray did not come up.")),
            RESUMABLE,
            "error: Ray did not come up.\n",
            id="not started: try again",
        ),
        pytest.param(ends(KeyboardInterrupt()), INTERRUPTED, "interrupted; stir on", id="Ctrl-C"),
        pytest.param(
            ends(asyncio.CancelledError()), INTERRUPTED, "interrupted", id="Ctrl-C, twice"
        ),
    ],
)
def test_exit_codes(job, code, message, capsys):
    assert program(job, go_on="stir on")(["pot=a"]) == code
    assert message in capsys.readouterr().err


def test_a_lost_connection_is_a_fault_without_a_traceback(capsys, monkeypatch):
    monkeypatch.setattr("isentropic.experiments.program.PACKAGE", Path(__file__).parent)
    assert exit_code(gone) == FAULT
    assert capsys.readouterr().err == "error: the kitchen is gone.\n"


def test_sigterm_is_resumable():
    with pytest.raises(SystemExit) as end:
        program(lambda *_: signal.raise_signal(signal.SIGTERM))(["pot=a"])
    assert end.value.code == RESUMABLE


def test_an_argument_that_holds_a_secret_is_refused_and_not_repeated(monkeypatch, capsys):
    monkeypatch.setenv("LAB", "ghp_a1B2c3D4e5")
    assert program(lambda *_: None)(["pot=ghp_a1B2c3D4e5"]) == BAD_INPUT
    said = capsys.readouterr().err
    assert "pot holds the value of the environment variable LAB" in said and "ghp_" not in said


def test_sigterm_while_ray_starts_is_resumable():
    """Ray's own handler exits with the signal's number."""
    with pytest.raises(SystemExit) as end:
        program(ends(SystemExit(signal.SIGTERM.value)))(["pot=a"])
    assert end.value.code == RESUMABLE


class GoneRay:
    """Stands for a runtime whose head has gone: it ends the process, here with an exception."""

    class Left(BaseException):
        pass

    @classmethod
    def leave_lost_ray(cls, code):
        raise cls.Left(code)


@pytest.mark.parametrize(
    ("job", "code"),
    [
        pytest.param(lambda *_: 3, 3, id="a code"),
        pytest.param(bad, BAD_INPUT, id="an error"),
        pytest.param(ends(KeyboardInterrupt()), INTERRUPTED, id="Ctrl-C"),
        pytest.param(ends(SystemExit(RESUMABLE)), RESUMABLE, id="SIGTERM"),
    ],
)
def test_every_command_leaves_a_ray_without_its_head(job, code, monkeypatch):
    """Whatever the command ends with: the usual exit would hang in Ray's hook."""
    monkeypatch.setitem(sys.modules, "isentropic.actors.ray_runtime", GoneRay)
    with pytest.raises(GoneRay.Left) as left:
        program(job)(["pot=a"])
    assert left.value.args == (code,)


@pytest.mark.parametrize(
    ("arguments", "code"), [([], BAD_INPUT), (["--help"], 0), (["a", "-h"], 0)]
)
def test_help(arguments, code, capsys):
    assert program(bad)(arguments) == code
    shown = capsys.readouterr().out
    assert "Cooks: python" in shown and "  minutes=<count>  how long\n" in shown


def test_options_have_kinds_and_words_belong_to_one(capsys):
    assert OPTIONS.parse(["a", "b", "cook.minutes=3"]) == ({"pot": Path("a,b"), "minutes": 3}, [])
    assert OPTIONS.parse(["pot=a", "b", "pot=c"])[0] == {"pot": Path("a,b,c")}
    assert OPTIONS.parse(["a", "minutes=3", "minutes=3"])[0]["minutes"] == 3
    with pytest.raises(ValueError, match=r"minutes=3 and minutes=4: which of them"):
        OPTIONS.parse(["a", "minutes=3", "minutes=4"])
    assert OPTIONS.parse(["x/y=1", "--minutes", "4", "--stir"]) == (
        {"pot": Path("x/y=1"), "minutes": 4, "stir": True},
        [],
    )
    assert capsys.readouterr().err.splitlines() == [
        "--minutes is now minutes=4",
        "--stir is now stir=true",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["minutes=3"], r"which pot\? Give pot=<name>"),
        (["pot=a", "minuts=3"], r"unknown option 'minuts'.*Did you mean 'minutes'"),
        (["pot=a", "--stirr"], r"unknown option '--stirr'.*Did you mean 'stir'"),
        (["pot=a", "minutes=²"], "minutes must be a number"),
        (["pot=a", "minutes=0"], "minutes must be >= 1"),
        (["pot=a", "minutes=1_0"], "minutes must be a number"),
        (["pot=a", "stir=yes"], "stir must be one of true, false"),
        (["pot="], "pot must be a path"),
        (["pot=a\0b"], "pot must be a path"),
        (["pot=" + "é" * 128], "pot has a name of 256 bytes"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        OPTIONS.parse(arguments)


def test_an_override_is_none_of_ours_but_a_misspelled_option_is_refused():
    options = Options("bake", "", OPTIONS.options, takes_overrides=True)
    given = ["pot=a", "seed=0,1", "objective.beta1=0", "+x.y=1", "~z"]
    assert options.parse(given) == ({"pot": Path("a")}, given[1:])
    for argument in ("minute=3", "--foo", "word"):
        with pytest.raises(ValueError, match="option"):
            options.parse(["pot=a", argument])


def test_a_second_method_is_refused_and_the_last_of_two_other_values_counts():
    options = Options("bake", "", OPTIONS.options, takes_overrides=True)
    given = ["method=papo", "objective=clip", "objective=dapo", "method=papo"]
    assert options.parse(["pot=a", *given])[1] == given
    with pytest.raises(ValueError, match=r"method is given twice.*'method=\[papo,dapo\]' composes"):
        options.parse(["pot=a", *given, "method=dapo"])


def test_commands_have_options_of_their_own():
    both = Commands("Kitchen.", {"cook": OPTIONS, "clean": Options("clean", "", ())})
    assert both.parse(["cook", "pot=a"])[0] == {"command": "cook", "pot": Path("a")}
    with pytest.raises(ValueError, match="Did you mean 'clean'"):
        both.parse(["cleen"])
    with pytest.raises(ValueError, match="There are no options"):
        both.parse(["clean", "pot=a"])
    assert "options of cook:" in both.help()


COMMANDS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))


@pytest.fixture(scope="module")
def helps(run_scripts):
    return run_scripts([[command, ["--help"]] for command in COMMANDS])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_its_help(command, helps):
    answer = helps[command]
    assert answer["code"] == 0, answer["error"]
    assert f"jobs/{command}.py" in answer["out"] or command == "fetch_smollm2"
