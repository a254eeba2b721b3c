"""Jobs on a Ray cluster: submit, follow, list and stop them through Ray's job API."""

import argparse
import itertools
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from isentropic.experiments.hydra_main import DONE, FAULT, refuse
from isentropic.experiments.submit import package as submit_package
from isentropic.folders import ORIGIN, RUNS, origin

ROOT = Path(__file__).resolve().parents[4]
SCRIPTS = ("train", "sweep", "branch", "evaluate", "report", "export")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
WRITES = ("run.dir", "out", "--out", "--to")  # arguments that name a place to write
STOP_WAIT_S = 600  # for the step under way and its checkpoint; then Ray kills the job
INTERRUPTED = 130

EXAMPLES = """\
  python jobs/submit.py train experiment=ce_gppo_tiny run.name=first
  python jobs/submit.py list | status NAME | logs NAME --follow | stop NAME
  python jobs/submit.py train experiment=ce_gppo_tiny --dry      what would be uploaded

The working tree is uploaded without what .gitignore names, outputs, data, caches and files of keys. No environment
variable of this machine is forwarded: Ray shows a job's environment in clear.
Runs are written to ISENTROPIC_RUNS of the cluster's nodes, or --runs; else, on this machine, to this tree's runs/.
A cluster with a token: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: of the job where one is followed, 75 where it was stopped, 2 on bad input."""
    options, overrides = _parser().parse_known_args(arguments)
    try:
        if options.command not in SCRIPTS and overrides:
            raise ValueError(f"{options.command} takes no {overrides[0]!r}. See --help.")
        if options.command in SCRIPTS:
            return _submit(options, overrides)
        return COMMANDS[options.command](options)
    except (ValueError, ConnectionError) as error:
        return refuse(str(error)) if isinstance(error, ValueError) else _fault(error)
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobs/submit.py",
        description=__doc__,
        epilog=EXAMPLES,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    where = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    where.add_argument(
        "--address", help="the dashboard: http://head:8265 (RAY_API_SERVER_ADDRESS; this machine)"
    )
    for script in SCRIPTS:
        each = commands.add_parser(
            script, parents=[where], allow_abbrev=False, help=f"send jobs/{script}.py"
        )
        each.add_argument("--name", help="the job's name, new on the cluster")
        each.add_argument("--no-follow", action="store_true", help="return once it is submitted")
        each.add_argument(
            "--dry", action="store_true", help="list what would be uploaded, and send nothing"
        )
        each.add_argument(
            "--runs", help="folder of runs on the cluster, absolute and seen by all its nodes"
        )
    for command, told in (
        ("status", "how a job is"),
        ("logs", "its log"),
        ("stop", "end it after its step"),
    ):
        each = commands.add_parser(command, parents=[where], allow_abbrev=False, help=told)
        each.add_argument("name")
        if command == "logs":
            each.add_argument("--follow", "-f", action="store_true")
        if command == "stop":
            each.add_argument("--no-wait", action="store_true", help="do not wait for its end")
    commands.add_parser("list", parents=[where], allow_abbrev=False, help="all jobs of the cluster")
    return parser


def _submit(options: argparse.Namespace, overrides: list[str]) -> int:
    if not (ROOT / "jobs" / f"{options.command}.py").is_file():
        raise ValueError(f"this tree has no jobs/{options.command}.py.")
    name = options.name or default_name(options.command, overrides)
    if not NAME.fullmatch(name):
        raise ValueError(
            f"--name {name!r}: a job's name has 1 to 64 letters, digits, dots, dashes and underscores."
        )
    check_paths(options.runs, overrides)
    submit_package.check_arguments(overrides)
    if options.command == "train":
        _check_overrides(overrides)
    found = submit_package.package(ROOT)
    if options.dry:
        _show(found)
        return DONE
    from isentropic.experiments.submit import client as submit_client

    client = submit_client.connect(options.address)
    if any(each.submission_id == name for each in client.list_jobs()):
        raise ValueError(f"the cluster already has a job {name!r}. Choose another --name.")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "tree.zip"
        submit_package.write_zip(found, archive)
        client.submit_job(
            submission_id=name,
            entrypoint=entrypoint(options.command, overrides),
            runtime_env={"working_dir": str(archive), "env_vars": job_env(options.runs)},
            metadata=_about(),
        )
    _say(
        f"submitted {name}: {len(found.files)} files, {found.num_bytes / 2**20:.1f} MiB; no secret is forwarded"
    )
    _say(f"  python jobs/submit.py logs {name} --follow | status {name} | stop {name}")
    return DONE if options.no_follow else _follow(client, name)


def entrypoint(script: str, overrides: list[str]) -> str:
    """The job's command."""
    return shlex.join(["python", f"jobs/{script}.py", *overrides])


def job_env(runs: str | None) -> dict[str, str]:
    """All environment variables that a job gets from here; each can be read by whoever sees the cluster."""
    return {
        "PYTHONPATH": "platform",  # relative to the uploaded tree, which has another path on every node
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
        ORIGIN: origin(ROOT),
        **own_python(),
        **({RUNS: runs} if runs else {}),
    }


def own_python() -> dict[str, str]:
    """Lets a node that has this environment, such as this machine, run the job in it; Ray fills in the node's PATH."""
    return {"PATH": f"{sys.prefix}/bin:${{PATH}}"} if sys.prefix != sys.base_prefix else {}


def default_name(script: str, overrides: list[str]) -> str:
    """train-<run.name>-<time>: a job's name is taken for as long as the cluster lives."""
    values = dict(override.lstrip("+").split("=", 1) for override in overrides if "=" in override)
    label = (
        values.get("run.name")
        or values.get("name")
        or values.get("run")
        or values.get("experiment")
        or "job"
    )
    label = re.sub(r"[^A-Za-z0-9._-]+", "_", label)[:32]
    return f"{script}-{label}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_paths(runs: str | None, overrides: list[str]) -> None:
    """Raises ValueError where the job would write into the copy of the tree that Ray deletes after it."""
    given = [("--runs", runs)] if runs is not None else []
    given += [
        each.partition("=")[::2]
        for each in overrides
        if each.startswith(tuple(f"{key}=" for key in WRITES))
    ]
    given += [pair for pair in itertools.pairwise(overrides) if pair[0] in WRITES]
    for key, path in given:
        if not PurePosixPath(path.strip("'\"")).is_absolute() and "${" not in path:
            raise ValueError(
                f"{key}={path} is relative: on the cluster it would lie in a copy of this tree that Ray deletes. Give "
                "an absolute path on storage that the nodes share, or leave it out and set ISENTROPIC_RUNS there."
            )


def _check_overrides(overrides: list[str]) -> None:
    """A misspelled key is told here and now, not after minutes of queueing."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from isentropic.experiments.hydra_main import CONF
    from isentropic.experiments.settings.errors import explain

    if any(each.startswith("-") for each in overrides):
        return  # Hydra's own options, such as --multirun: the job itself says what is wrong with them
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            compose("config", overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(explain(error, CONF, overrides)) from error


def _about() -> dict[str, str]:
    """What the dashboard shows with a job: where its code came from."""
    about = {}
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
            about[key] = text if key == "git_commit" else f"{len(text.splitlines())} files"
    return about


def _follow(client, name: str) -> int:
    from isentropic.experiments.submit.client import exit_code, follow

    try:
        details = follow(client, name, _write)
    except KeyboardInterrupt:
        _say(
            f"\nnot followed any more; {name} goes on. To end it: python jobs/submit.py stop {name}"
        )
        return INTERRUPTED
    _say(
        f"{name}: {details.status.value.lower()}"
        + (f", {details.message}" if details.status == "FAILED" else "")
    )
    return exit_code(details)


def _status(options: argparse.Namespace) -> int:
    from isentropic.experiments.submit.client import connect, job

    details = job(connect(options.address), options.name)
    print(f"{options.name}: {details.status.value}, {_lasted(details)}")
    print(f"  {details.entrypoint}")
    if details.message:
        print(f"  {details.message}")
    if details.driver_exit_code is not None:
        print(f"  exit code {details.driver_exit_code}")
    return DONE


def _logs(options: argparse.Namespace) -> int:
    from isentropic.experiments.submit.client import connect, job

    client = connect(options.address)
    job(client, options.name)
    if options.follow:
        return _follow(client, options.name)
    _write(client.get_job_logs(options.name))
    return DONE


def _stop(options: argparse.Namespace) -> int:
    """Asks the job to end; a run saves the step under way first."""
    from isentropic.experiments.submit.client import ENDED, connect, job

    client = connect(options.address)
    if job(client, options.name).status in ENDED:
        _say(f"{options.name} has ended already: {client.get_job_status(options.name).value}")
        return DONE
    client.stop_job(options.name)
    deadline = time.monotonic() + STOP_WAIT_S + 30
    _say(f"{options.name} was asked to stop: it saves the step under way (at most {STOP_WAIT_S} s)")
    while not options.no_wait and (status := client.get_job_status(options.name)) not in ENDED:
        if time.monotonic() > deadline:
            raise ConnectionError(
                f"{options.name} has not ended within {STOP_WAIT_S + 30} s; it is {status.value}."
            )
        time.sleep(1)
    if not options.no_wait:
        _say(f"{options.name}: {status.value}")
    return DONE


def _list(options: argparse.Namespace) -> int:
    from isentropic.experiments.submit.client import connect

    jobs = [each for each in connect(options.address).list_jobs() if each.submission_id]
    for each in sorted(jobs, key=lambda each: each.start_time or 0):
        print(
            f"{each.submission_id:<44} {each.status.value:<10} {_lasted(each):<34} {each.entrypoint[:80]}"
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
    for name in found.files:
        print(name)
    _say(f"{len(found.files)} files, {found.num_bytes / 2**20:.1f} MiB would be uploaded")
    for name, reason in found.left_out[:20]:
        _say(f"  left out: {name} ({reason})")
    if len(found.left_out) > 20:
        _say(f"  left out: {len(found.left_out) - 20} more")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _fault(error: Exception) -> int:
    _say(f"error: {error}")
    return FAULT


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "status": _status,
    "logs": _logs,
    "stop": _stop,
    "list": _list,
}
