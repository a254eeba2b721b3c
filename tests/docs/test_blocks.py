"""Every command of README and pages is tried as it stands, as far as that starts nothing.

`train` goes through Hydra to the job, which is another one here; the rest is parsed by its own options,
and what it takes for the config is composed and checked.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from isentropic.experiments.commands import submit
from isentropic.experiments.console import COMMANDS
from isentropic.experiments.hydra_main import hydra_main
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.load import load
from isentropic.experiments.settings.overrides import read_preset

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), ROOT / "docker" / "README.md"]
FENCED = re.compile(r"```sh\n(.*?)```", re.DOTALL)
INDENTED = re.compile(r"(?:^    \S.*\n)+", re.MULTILINE)
PLACEHOLDER = re.compile(r"<[a-zA-Z ]+>")  # a name that the reader has to fill in
STARTS = re.compile(r"jobs/(\w+)\.py|isentropic")
# What pages use of the system, and of the commands that Ray and huggingface_hub bring along.
OTHERS = {"ray": {"start", "get-auth-token"}, "hf": {"download"}, "tail": {"-f"}}
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def blocks():
    """(page, block of shell), in the order of the pages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found += [(page.name, block) for block in FENCED.findall(text)]
        if page.parent.name == "docker":
            found += [(page.name, block) for block in INDENTED.findall(text)]
    return [(page, PLACEHOLDER.sub("placeholder", block)) for page, block in found]


def commands():
    """(page, words) of each command; `a && b` are two, and what is in the background is one too."""
    found = []
    for page, block in blocks():
        for line in block.splitlines():
            words = shlex.split(line.strip(), comments=True)
            while "&&" in words:
                found.append((page, words[: words.index("&&")]))
                words = words[words.index("&&") + 1 :]
            found += [(page, [word for word in words if word != "&"])] if words else []
    return found


def own_files():
    """Name -> text of the files that a page has its reader write: their first line is their name."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    return dict(re.findall(r"```python\n# (my_\w+\.py)\n(.*?)```", text, re.DOTALL))


@pytest.mark.parametrize(("page", "block"), blocks())
def test_a_shell_reads_the_block(page, block):
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
    assert done.stderr == ""


@pytest.fixture(autouse=True)
def _the_process_is_as_before(monkeypatch, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # a cluster: its GPUs are not counted here
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("ISENTROPIC_RUNS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, text in own_files().items():
        (tmp_path / name).write_text(text)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("page", "words"),
    commands(),
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[:70],
)
def test_a_command_can_be_run(page, words, monkeypatch):
    tried = {"make": targets, "kubectl": files, "docker": files, "export": variables, "eval": ours}
    if words[0] in tried:
        tried[words[0]](words[1:])
    else:
        ours(words, monkeypatch)


def targets(words):
    assert {word for word in words if "=" not in word} <= TARGETS


def files(words):
    named = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "-f"]
    assert named or words[0] in ("port-forward", "push")
    assert all((ROOT / name).is_file() for name in named)
    if "submit" in words:  # docker compose run --rm submit train ...
        submitted(words[words.index("submit") + 1 :])


def variables(words):
    assert re.match(r"[A-Z_]+=", words[0])


def ours(words, monkeypatch=None):
    """A job, the console script, or Ray's own command with a job behind it."""
    words = words[0].strip("$()").split() if len(words) == 1 else words  # eval "$(...)"
    if Path(words[0]).name in OTHERS and words[1:3] != ["job", "submit"]:
        assert words[1] in OTHERS[Path(words[0]).name]
        return
    if words[:3] == [".venv/bin/ray", "job", "submit"]:
        environment = json.loads(words[words.index("--runtime-env-json") + 1])
        assert environment["env_vars"]["PYTHONPATH"] == "platform"
        words = words[words.index("--") + 1 :]
    place = next(i for i, word in enumerate(words) if STARTS.fullmatch(word))
    assert place == 0 or words[:place] in (["python"], [".venv/bin/python"])
    job, arguments = STARTS.fullmatch(words[place])[1], words[place + 1 :]
    if job is None:
        job, arguments = arguments[0], arguments[1:]
    assert job in COMMANDS or (job, arguments) == ("completion", ["bash"])
    {"train": trained, "submit": submitted, "completion": lambda given, _: None}.get(
        job, lambda given, _: parsed(job, given)
    )(arguments, monkeypatch)


def trained(arguments, monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "argv", ["jobs/train.py", *arguments])
    code = hydra_main(lambda config, cfg: seen.append(config))()
    assert code == 0 and (len(seen) == 1 or "--cfg" in arguments)


def submitted(arguments, _=None):
    options, given = submit.OPTIONS.parse(arguments)
    if options["command"] in submit.SCRIPTS:
        submit.checked_arguments(options["command"], given, options.get("runs"))


def parsed(job, arguments):
    """Options by the command's own; of overrides the first values, with what a sweep's file adds."""
    module = import_module(f"isentropic.experiments.commands.{job}")
    if not hasattr(module, "OPTIONS"):
        assert not arguments, f"{job} takes no options"
        return
    options, overrides = module.OPTIONS.parse(arguments)
    if job == "evaluate" and "task" in options:
        compose([f"task={options['task']}", *overrides])
    if job not in ("sweep", "branch"):
        return
    preset = read_preset(options["sweep"]) if "sweep" in options else {}
    first = [re.sub(r"=([^,\[{]+),.*", r"=\1", each) for each in overrides]
    base = ["experiment=ce_gppo_tiny"] if job == "branch" else []
    load(compose([*base, *preset.get("overrides", []), *first]))


@pytest.mark.slow
def test_what_starts_nothing_runs_as_printed(tmp_path):
    """In a shell of its own: all that only looks, and needs no data or cluster."""
    lines = [line for _, block in blocks() for line in block.splitlines()]
    quick = [line for line in lines if re.search(r"--cfg job|run\.dry=true|doctor\.py", line)]
    quick = [line for line in quick if "task.path" not in line]
    assert len(quick) >= 3
    for line in quick:
        line = line.replace(".venv/bin/python", sys.executable)
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=ROOT,
            env={**os.environ, "ISENTROPIC_RUNS": str(tmp_path), "RAY_ADDRESS": ""},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (line, done.stderr)
