"""Sends jobs to a Ray cluster, follows, lists and stops them through Ray's job API.

  python jobs/submit.py train experiment=ce_gppo_tiny run.name=first
  python jobs/submit.py train experiment=ce_gppo_tiny dry=true     what would be uploaded
  python jobs/submit.py doctor                                     whether a run can start there
  python jobs/submit.py list | status <job> | logs <job> follow=true | stop <job>

What is no option below goes to the script. The working tree is uploaded without what .gitignore
names, outputs, data, caches and files of keys; the .py files that the arguments name go along from
wherever they lie. No environment variable of this machine is forwarded: Ray shows a job's
environment in clear.
A cluster with a token: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token.
"""

import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from isentropic.config import check_name
from isentropic.experiments.program import DONE, INTERRUPTED, program
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.conf import own_config_dirs
from isentropic.experiments.settings.options import Commands, Option, Options, flag, text
from isentropic.experiments.started import as_started
from isentropic.experiments.submit import package as submit_package
from isentropic.folders import ORIGIN, RUNS, origin

ROOT = Path(__file__).resolve().parents[4]
SCRIPTS = (
    "train", "sweep", "branch", "replay", "evaluate", "attribute", "report", "export", "doctor",
)  # fmt: skip
LOOKS = ("status", "logs", "stop", "list")  # at jobs that are there
STOP_WAIT_S = 600  # for a run's end and its checkpoint; then Ray kills the job
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
WITHIN = re.compile(r"checkpoint\.stop_within_s=(\d+)")  # what a run waits for the step under way

ADDRESS = Option(
    "address",
    "<url>",
    "the dashboard, http://head:8265 (default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS if it is a URL, "
    "this machine)",
    text,
)
JOB = Option("job", "<name>", "the job's name; `job=` may be left out", text, required=True)
OF_A_SCRIPT = (
    ADDRESS,
    Option("job", "<name>", "the job's name, new on the cluster", text),
    Option("follow", "true|false", "false: return once it is submitted (default: true)", flag),
    Option("dry", "true|false", "true: list what would be uploaded, and send nothing", flag),
    Option(
        "runs",
        "<folder>",
        "folder of runs on the cluster, absolute and seen by all its nodes (default: "
        "ISENTROPIC_RUNS of the nodes; else, on this machine, this tree's runs/)",
        text,
    ),
)
OLD = {
    "--address": "address=",
    "--name": "job=",
    "--no-follow": "follow=false",
    "--follow": "follow=true",
    "-f": "follow=true",
    "--no-wait": "wait=false",
    "--dry": "dry=true",
    "--runs": "runs=",
}
OPTIONS = Commands(
    __doc__,
    {script: Options(script, __doc__, OF_A_SCRIPT, takes_all=True, old=OLD) for script in SCRIPTS}
    | {
        "status": Options("status", __doc__, (JOB, ADDRESS), words="job", old=OLD),
        "logs": Options(
            "logs",
            __doc__,
            (JOB, ADDRESS, Option("follow", "true|false", "true: until the job's end", flag)),
            words="job",
            old=OLD,
        ),
        "stop": Options(
            "stop",
            __doc__,
            (JOB, ADDRESS, Option("wait", "true|false", "false: do not wait for its end", flag)),
            words="job",
            old=OLD,
        ),
        "list": Options("list", __doc__, (ADDRESS,), old=OLD),
    },
)
Given = dict[str, Any]


def submit(options: Given, arguments: list[str]) -> int:
    """Do what the first word says. Returns the code of a job that is followed, 75 if stopped."""
    if options["command"] in SCRIPTS:
        return _submit(options, arguments)
    return COMMANDS[options["command"]](options)


def _submit(options: Given, arguments: list[str]) -> int:
    script = options["command"]
    if not (ROOT / "jobs" / f"{script}.py").is_file():
        raise ValueError(
            f"{ROOT} has no jobs/{script}.py, and a job takes the whole tree along. Submit from a "
            "checkout of the project."
        )
    submit_package.check_arguments(arguments)
    arguments = checked_arguments(script, arguments, options.get("runs"))
    name = options.get("job") or default_name(script, arguments)
    check_name("job", name)
    arguments, own = submit_package.with_own_files(arguments, ROOT)
    found = submit_package.package(ROOT, own)
    arguments += own_presets(found)
    if options.get("dry"):
        _show(found)
        return DONE
    from isentropic.experiments.submit import client as submit_client

    client = submit_client.connect(options.get("address"))
    if any(job.submission_id == name for job in client.list_jobs()):
        raise ValueError(f"the cluster already has a job {name!r}. Choose another: job=<name>.")
    env = job_env(options.get("runs"), stop_wait_s=stop_wait_s(arguments))
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "tree.zip"
        submit_package.write_zip(found, archive)
        client.submit_job(
            submission_id=name,
            entrypoint=entrypoint(script, arguments),
            runtime_env={"working_dir": str(archive), "env_vars": env},
            metadata=_source(),
        )
    _say(
        f"submitted {name}: {len(found.places())} files, {found.num_bytes / 2**20:.1f} MiB; no secret "
        "is forwarded"
    )
    for command, more in (("logs", " follow=true"), ("status", ""), ("stop", "")):
        _say(f"  {_again(command, name, options)}{more}")
    return DONE if options.get("follow") is False else _follow(client, name, options)


def checked_arguments(script: str, arguments: list[str], runs: str | None) -> list[str]:
    """Check the script's arguments as it would, before minutes of queueing, and return them.

    Raises:
        ValueError: a misspelled option or key, or a relative place to write: it would lie in the
            copy of the tree that Ray deletes.
    """
    places = [("runs", runs)] if runs is not None else []
    if script == "train":
        # With Hydra's own flags, such as --multirun, the job itself says what is wrong.
        if not any(argument.startswith("-") for argument in arguments):
            compose(arguments)
        places += [
            argument.split("=", 1) for argument in arguments if argument.startswith("run.dir=")
        ]
    else:
        options: Options = import_module(f"isentropic.experiments.commands.{script}").OPTIONS
        arguments = options.current(arguments)
        values, _ = options.parse(arguments)
        places += [
            (option.name, str(values[option.name]))
            for option in options.options
            if option.writes and option.name in values
        ]
    for key, path in places:
        if not PurePosixPath(path.strip("'\"")).is_absolute() and "${" not in path:
            raise ValueError(
                f"{key}={path} is relative: on the cluster it would lie in a copy of this tree "
                "that Ray deletes. Give an absolute path on storage that the nodes share, or leave "
                "it out and set ISENTROPIC_RUNS there."
            )
    return arguments


def entrypoint(script: str, arguments: list[str]) -> str:
    """Return the job's command."""
    return shlex.join(["python", f"jobs/{script}.py", *arguments])


def own_presets(found: submit_package.Package) -> list[str]:
    """Return the `--config-dir` of the job, whose working folder is the uploaded tree.

    Raises:
        ValueError: a folder that would stay behind.
    """
    flags = []
    for folder in own_config_dirs():
        inside = folder.relative_to(found.root) if folder.is_relative_to(found.root) else None
        if inside is None or not any(name.startswith(f"{inside}/") for name in found.files):
            raise ValueError(
                f"--config-dir {folder} is not among the files that a job takes along. Put it into "
                f"{found.root}, where .gitignore does not name it."
            )
        flags.append(f"--config-dir={inside}")
    return flags


def stop_wait_s(arguments: list[str]) -> int:
    """Return for how long Ray waits after a stop: longer than the run waits for its step."""
    return STOP_WAIT_S + sum(int(found[1]) for found in map(WITHIN.match, arguments) if found)


def job_env(runs: str | None, *, stop_wait_s: int = STOP_WAIT_S) -> dict[str, str]:
    """Return all variables that a job gets; each can be read by whoever sees the cluster."""
    return {
        # relative to the uploaded tree, which has another path on every node
        "PYTHONPATH": "platform",
        STOP_WAIT: str(stop_wait_s),
        ORIGIN: origin(ROOT),
        **own_python(),
        **({RUNS: runs} if runs else {}),
    }


def own_python() -> dict[str, str]:
    """Let a node that has this environment, such as this machine, run the job in it.

    Ray fills in the node's PATH.
    """
    return {"PATH": f"{sys.prefix}/bin:${{PATH}}"} if sys.prefix != sys.base_prefix else {}


def default_name(script: str, arguments: list[str]) -> str:
    """Return train-<run.name>-<time>: a job's name is taken for as long as the cluster lives."""
    values = dict(argument.lstrip("+").split("=", 1) for argument in arguments if "=" in argument)
    label = (
        values.get("run.name")
        or values.get("name")
        or values.get("run")
        or values.get("experiment")
        or "job"
    )
    label = re.sub(r"[^A-Za-z0-9._-]+", "_", label)[:32]
    return f"{script}-{label}-{time.strftime('%Y%m%d-%H%M%S')}"


def _source() -> dict[str, str]:
    """Return where the job's code came from; the dashboard shows it."""
    source = {}
    for key, command in (
        ("git_commit", ["rev-parse", "HEAD"]),
        ("git_changes", ["status", "--porcelain"]),
    ):
        try:
            done = subprocess.run(
                ["git", "-C", str(ROOT), *command], capture_output=True, text=True, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            text = done.stdout.strip()
            source[key] = text if key == "git_commit" else f"{len(text.splitlines())} files"
    return source


def _again(command: str, name: str, options: Given) -> str:
    """Return the command line of a further look at the job, on the same cluster."""
    address = f" address={options['address']}" if "address" in options else ""
    return as_started(f"python jobs/submit.py {command} {name}{address}")


def _follow(client, name: str, options: Given) -> int:
    from isentropic.experiments.submit.client import exit_code, follow

    try:
        details = follow(client, name, _write)
    except KeyboardInterrupt:
        _say(f"\nnot followed any more; {name} goes on. To end it: {_again('stop', name, options)}")
        return INTERRUPTED
    _say(
        f"{name}: {details.status.value.lower()}"
        + (f", {details.message}" if details.status == "FAILED" else "")
    )
    return exit_code(details)


def _status(options: Given) -> int:
    from isentropic.experiments.submit.client import connect, job

    details = job(connect(options.get("address")), options["job"])
    print(f"{options['job']}: {details.status.value}, {_lasted(details)}")
    print(f"  {details.entrypoint}")
    if details.message:
        print(f"  {details.message}")
    if details.driver_exit_code is not None:
        print(f"  exit code {details.driver_exit_code}")
    return DONE


def _logs(options: Given) -> int:
    from isentropic.experiments.submit.client import connect, job

    client = connect(options.get("address"))
    job(client, options["job"])
    if options.get("follow"):
        return _follow(client, options["job"], options)
    _write(client.get_job_logs(options["job"]))
    return DONE


def _stop(options: Given) -> int:
    """Ask the job to end; a run saves the step under way first."""
    from isentropic.experiments.submit.client import ENDED, connect, job

    client = connect(options.get("address"))
    name = options["job"]
    wait = options.get("wait", True)
    details = job(client, name)
    if details.status in ENDED:
        _say(f"{name} has ended already: {client.get_job_status(name).value}")
        return DONE
    wait_s = int((details.runtime_env or {}).get("env_vars", {}).get(STOP_WAIT, STOP_WAIT_S))
    client.stop_job(name)
    deadline = time.monotonic() + wait_s + 30
    _say(f"{name} was asked to stop: a run saves the step under way (at most {wait_s} s)")
    while wait and (status := client.get_job_status(name)) not in ENDED:
        if time.monotonic() > deadline:
            raise ConnectionError(
                f"{name} has not ended within {wait_s + 30} s; it is {status.value}."
            )
        time.sleep(1)
    if wait:
        _say(f"{name}: {status.value}")
    return DONE


def _list(options: Given) -> int:
    from isentropic.experiments.submit.client import connect

    jobs = [job for job in connect(options.get("address")).list_jobs() if job.submission_id]
    for job in sorted(jobs, key=lambda job: job.start_time or 0):
        print(
            f"{job.submission_id:<44} {job.status.value:<10} {_lasted(job):<34} "
            f"{job.entrypoint[:80]}"
        )
    if not jobs:
        _say("no jobs")
    return DONE


def _lasted(details) -> str:
    if not details.start_time:
        return "not started"
    end = (details.end_time or time.time() * 1000) - details.start_time
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(details.start_time / 1000))
    return f"started {started}, {end / 1000:.0f} s"


def _show(found: submit_package.Package) -> None:
    for name in found.places():
        print(name)
    _say(f"{len(found.places())} files, {found.num_bytes / 2**20:.1f} MiB would be uploaded")
    for name, reason in found.left_out[:20]:
        _say(f"  left out: {name} ({reason})")
    if len(found.left_out) > 20:
        _say(f"  left out: {len(found.left_out) - 20} more")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


COMMANDS: dict[str, Callable[[Given], int]] = dict(
    zip(LOOKS, (_status, _logs, _stop, _list), strict=True)
)

main = program(submit, OPTIONS)
