"""What is uploaded and what never is; names, folders and addresses that are refused before anything is sent."""

import json
import os
import socket
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from isentropic.checks import secret_values
from isentropic.experiments.commands import submit
from isentropic.experiments.submit import client as submit_client
from isentropic.experiments.submit.client import connect, exit_code
from isentropic.experiments.submit.package import (
    check_arguments,
    package,
    with_own_files,
    write_zip,
)
from isentropic.folders import use_durable_folders

PLATFORM = Path(__file__).resolve().parents[3] / "platform"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch, tmp_path_factory):
    for name in (
        "RAY_ADDRESS",
        "RAY_API_SERVER_ADDRESS",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_AUTH_MODE",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("ISENTROPIC_RUNS", "ISENTROPIC_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def tree(tmp_path):
    """A working tree with everything that must stay behind."""
    for name, text in {
        ".gitignore": "ignored/\n",
        "jobs/train.py": "print('hello')",
        "platform/isentropic/data/table.py": "TABLE = 1",  # only data/ of the root is left out
        "ignored/large.bin": "x",
        "runs/a/metrics.jsonl": "{}",
        "data/train.jsonl": "{}",
        ".git/config": "[remote]",
        ".env": "WANDB_API_KEY=x",
        "conf/prod.env": "x",
        "deploy/id_ed25519": "x",
        "deploy/server.pem": "x",
        ".cache/models/model.safetensors": "x",
        "docs/results/steps/a.json.xz": "x",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_user_s_own_files_go_along_wherever_they_lie(tree, tmp_path_factory, monkeypatch):
    outside = tmp_path_factory.mktemp("mine") / "reward.py"
    outside.write_text("def grade(prompt, response, row):\n    return 1.0\n")
    for name in ("inside.py", "data/reward.py"):
        (tree / name).write_text("x = 1\n")
    monkeypatch.chdir(tree)
    arguments, own = with_own_files(
        [
            f"task.reward={{file: {outside}, function: grade}}",
            "objective={file: 'inside.py', name: f}",
            "task.file=data/reward.py",
            "task.path=data.csv",
        ],
        tree,
    )
    assert arguments == [
        "task.reward={file: own/0/reward.py, function: grade}",
        "objective={file: 'inside.py', name: f}",
        "task.file=own/1/reward.py",
        "task.path=data.csv",
    ]
    assert own == {"own/0/reward.py": outside, "own/1/reward.py": tree / "data" / "reward.py"}
    archive = tmp_path_factory.mktemp("upload") / "tree.zip"
    write_zip(package(tree, own), archive)
    with zipfile.ZipFile(archive) as packed:
        assert packed.read("own/0/reward.py") == outside.read_bytes()
        assert "inside.py" in packed.namelist()


def test_an_own_file_that_is_absent_or_holds_a_key_is_refused(tree, tmp_path_factory):
    with pytest.raises(ValueError, match=r"absent\.py is no file"):
        with_own_files(["task.reward={file: absent.py, function: f}"], tree)
    outside = tmp_path_factory.mktemp("mine") / "reward.py"
    outside.write_text(f"KEY = 'sk-proj-{'a' * 40}'\n")
    _, own = with_own_files([f"task.reward.file={outside}"], tree)
    with pytest.raises(ValueError, match=r"own/0/reward.py holds an API key"):
        package(tree, own)


def test_code_goes_up_and_nothing_else(tree):
    found = package(tree)

    assert found.files == (".gitignore", "jobs/train.py", "platform/isentropic/data/table.py")
    left_out = {".env", "deploy/id_ed25519", "deploy/server.pem", "runs/a/metrics.jsonl"}
    assert left_out | {"docs/results/steps/a.json.xz"} <= dict(found.left_out).keys()


def test_this_project_can_be_sent(monkeypatch):
    """No file of its own, such as a test of secrets, looks like one that holds a secret."""
    for variable in secret_values():
        monkeypatch.delenv(variable)
    found = package(PLATFORM.parent)

    assert {"jobs/train.py", "conf/config.yaml"} <= set(found.files)
    # A link stays behind; conf/ itself goes along.
    assert ("platform/isentropic/conf", "a link") in found.left_out


def test_the_same_tree_gives_the_same_bytes(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zips")
    write_zip(package(tree), folder / "a.zip")
    (tree / "jobs" / "train.py").touch()
    write_zip(package(tree), folder / "b.zip")

    assert (folder / "a.zip").read_bytes() == (folder / "b.zip").read_bytes()
    assert zipfile.ZipFile(folder / "a.zip").read("jobs/train.py") == b"print('hello')"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        pytest.param(
            "-----BEGIN OPENSSH PRIVATE KEY-----\n" + "b3BlbnNzaC1rZXk" * 3,
            "a private key",
            id="ssh",
        ),
        pytest.param("WANDB_API_KEY = '" + "0123456789" * 4 + "'", "a W&B key", id="wandb"),
        pytest.param("token: hf_" + "aBcDeFgHiJkLmNoPqR" * 2, None, id="too long for a Hub token"),
        pytest.param("token: hf_" + "aBcDeFgHiJkLmNoPq" * 2, "a Hugging Face token", id="hub"),
        pytest.param("AKIA" + "ABCDEFGHIJKLMNOP", "an AWS key", id="aws"),
        pytest.param(
            "my value is canary-canary", "the value of SOME_SERVICE_TOKEN", id="known by its value"
        ),
    ],
)
def test_a_secret_in_a_file_stops_the_upload(tree, monkeypatch, text, what):
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "canary-canary")
    (tree / "conf" / "notes.yaml").write_text(text)
    if what is None:
        assert "conf/notes.yaml" in package(tree).files
        return
    with pytest.raises(ValueError, match=f"conf/notes.yaml holds {what}: nothing was uploaded"):
        package(tree)


def test_a_tree_with_data_in_it_is_refused(tree):
    with (tree / "jobs" / "big.bin").open("wb") as big:
        big.truncate(101 * 2**20)
    with pytest.raises(ValueError, match=r"101 MiB to upload, at most 100 .* jobs/big.bin"):
        package(tree)


def test_a_secret_among_the_arguments_is_refused_and_not_repeated(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "c0ffee" * 6 + "abcd")
    check_arguments(["rollout.max_response_tokens=64", "run.name=token"])
    for argument in (
        f"+wandb_api_key={'c0ffee' * 6}abcd",
        "tracking.token=abc",
        f"run.name=x{'c0ffee' * 6}abcd",
    ):
        with pytest.raises(ValueError) as refused:
            check_arguments([argument])
        assert "c0ffee" not in str(refused.value) and "=abc" not in str(refused.value)


def test_a_job_gets_no_variable_of_this_machine(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "canary-canary")
    monkeypatch.setattr(
        submit.sys, "prefix", submit.sys.base_prefix
    )  # in no environment of its own
    env = submit.job_env("/shared/runs")

    assert set(env) == {
        "PYTHONPATH", "RAY_JOB_STOP_WAIT_TIME_S", "ISENTROPIC_SUBMITTED_FROM", "ISENTROPIC_RUNS"
    }  # fmt: skip
    assert env["PYTHONPATH"] == "platform" and "canary" not in json.dumps(env)


def test_a_node_that_has_the_environment_uses_it(monkeypatch):
    """Else `python` is the first of the node's PATH: the system's, where Ray was not started in the environment."""
    monkeypatch.setattr(submit.sys, "prefix", "/opt/own/.venv")
    assert submit.job_env(None)["PATH"] == "/opt/own/.venv/bin:${PATH}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["train", "job=a b;c"], "job must be 1 to 64 letters", id="name"),
        pytest.param(["train", "--name", "../evil"], "job must be 1 to", id="name with a path"),
        pytest.param(
            ["train", "run.dir=runs/x"], "run.dir=runs/x is relative", id="relative run.dir"
        ),
        pytest.param(["train", "runs=runs"], "runs=runs is relative", id="relative runs"),
        pytest.param(["branch", "run=a", "out=b"], "out=b is relative", id="relative out"),
        pytest.param(["export", "a", "--to", "model"], "to=model is relative", id="relative to"),
        pytest.param(
            ["branch", "run=a", "stepps=1"], "Did you mean 'steps'", id="a script's option"
        ),
        pytest.param(["traim"], "Did you mean 'train'", id="misspelled command"),
        pytest.param(
            ["train", "objective.betta1=0"], "Did you mean 'objective.beta1'", id="misspelled key"
        ),
        pytest.param(["status", "a", "jobb=b"], "unknown option 'jobb'", id="unknown option"),
        pytest.param(
            ["list", "address=ray://head:10001"],
            "the dashboard's, http://<head>:8265",
            id="ray client",
        ),
        pytest.param(["list", "--address", "http://head:port"], "is not an address", id="no port"),
    ],
)
def test_refused_before_anything_is_sent(arguments, message, capsys):
    assert submit.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_nobody_answers(capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        assert submit.main(["list", f"address={address}"]) == 2
    assert f"no Ray dashboard answers at {address} (connection refused)" in capsys.readouterr().err


def test_somebody_listens_and_says_nothing(monkeypatch):
    monkeypatch.setattr(submit_client, "ANSWER_S", 0.3)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        with pytest.raises(ValueError, match=r"gave no answer within 0\.3 s"):
            connect(f"127.0.0.1:{deaf.getsockname()[1]}")


@pytest.fixture
def dashboard():
    """Answers like Ray's with a token: 401 without, 403 with another, 200 with the right one."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            given = self.headers.get("Authorization")
            self.send_response(200 if given == "Bearer right" else 403 if given else 401)
            self.end_headers()
            self.wfile.write(b'{"ray_version": "2.60.0"}')

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_token_by_variable_by_file_and_from_home(dashboard, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"wants a token \(401\), and .*auth_token has none"):
        connect(dashboard)
    (tmp_path / "token").write_text("right\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert connect(dashboard).get_address() == dashboard
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(ValueError, match=r"refuses this token \(403\)"):
        connect(dashboard)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ValueError, match=r"\(401\). RAY_AUTH_MODE=disabled is set here: unset it"):
        connect(dashboard)


@pytest.mark.parametrize("variable", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
def test_the_address_of_the_environment(dashboard, monkeypatch, variable):
    """What names a Ray but no dashboard, such as host:6379, is none to ask for jobs."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.setenv(variable, dashboard)
    assert connect(None).get_address() == dashboard


class Cluster:
    """Takes every job, and runs none."""

    def list_jobs(self):
        return []

    def submit_job(self, **_):
        pass


def test_the_next_commands_ask_the_same_cluster(tree, monkeypatch, capsys):
    monkeypatch.setattr(submit, "ROOT", tree)
    monkeypatch.setattr(submit_client, "connect", lambda address: Cluster())
    for given, more in (("--address=http://head:80", " address=http://head:80"), ("seed=1", "")):
        assert submit.main(["train", "job=first", "follow=false", given]) == 0
        hints = [line.strip() for line in capsys.readouterr().err.splitlines() if line[0] == " "]
        assert hints == [
            f"python jobs/submit.py logs first{more} follow=true",
            f"python jobs/submit.py status first{more}",
            f"python jobs/submit.py stop first{more}",
        ]


def test_the_doctor_can_be_sent(tree, monkeypatch, capsys):
    """To those who have the dashboard only: as a job it looks from inside the cluster."""
    monkeypatch.setattr(submit, "ROOT", tree)
    (tree / "jobs" / "doctor.py").touch()
    sent = []
    cluster = Cluster()
    cluster.submit_job = lambda **job: sent.append(job)
    monkeypatch.setattr(submit_client, "connect", lambda address: cluster)
    given = ["doctor", "job=a", "follow=false", "runs=/shared/runs"]
    assert submit.main(given) == 0
    assert sent[0]["entrypoint"] == "python jobs/doctor.py"
    assert sent[0]["runtime_env"]["env_vars"]["ISENTROPIC_RUNS"] == "/shared/runs"
    assert submit.main([*given, "experiment=ce_gppo_tiny"]) == 2
    assert "unknown option 'experiment'" in capsys.readouterr().err


def test_ray_waits_longer_than_the_run_does_for_its_step(tree, monkeypatch, capsys):
    """Else Ray kills a run of long steps before it has saved."""
    monkeypatch.setattr(submit, "ROOT", tree)
    sent = {}

    class Ended(Cluster):
        def submit_job(self, **job):
            sent[job["submission_id"]] = job["runtime_env"]

        def get_job_info(self, name):
            return SimpleNamespace(status="RUNNING", runtime_env=sent[name])

        def stop_job(self, name):
            pass

    monkeypatch.setattr(submit_client, "connect", lambda address: Ended())
    for name, *given in (("a",), ("b", "checkpoint.stop_within_s=2000")):
        assert submit.main(["train", f"job={name}", "follow=false", *given]) == 0
        assert submit.main(["stop", name, "wait=false"]) == 0
    waits = [sent[name]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] for name in ("a", "b")]
    assert waits == ["600", "2600"]
    said = capsys.readouterr().err
    assert "(at most 600 s)" in said and "(at most 2600 s)" in said


def test_presets_of_ones_own_travel_or_are_refused(tree, monkeypatch, capsys):
    monkeypatch.setattr(submit, "ROOT", tree)
    (tree / "mine" / "task").mkdir(parents=True)
    (tree / "mine" / "task" / "short.yaml").write_text("defaults: [arithmetic, _self_]")
    (tree / "ignored" / "task").mkdir()
    sent = []
    cluster = Cluster()
    cluster.submit_job = lambda **job: sent.append(job["entrypoint"])
    monkeypatch.setattr(submit_client, "connect", lambda address: cluster)
    given = ["train", "job=a", "follow=false", "task=short"]
    assert submit.main([*given, f"--config-dir={tree}/mine"]) == 0
    assert sent == ["python jobs/train.py task=short --config-dir=mine"]
    assert submit.main([*given[:3], f"--config-dir={tree}/ignored"]) == 2
    assert "is not among the files that a job takes along" in capsys.readouterr().err


def job_environment(origin=None, **more):
    env = {
        "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"working_dir": "gcs://x.zip"}})
    }
    return env | ({"ISENTROPIC_SUBMITTED_FROM": origin} if origin else {}) | more


def test_where_a_job_writes(tmp_path, capsys):
    here, home = f"{socket.gethostname()}:{tmp_path}", submit_client.Path.home()
    cases = [
        ({}, None, None),  # not a job: runs/ of the folder one is in
        (job_environment(here), tmp_path / "runs", tmp_path / ".cache" / "models"),
        (job_environment(here, ISENTROPIC_RUNS="/big"), "/big", tmp_path / ".cache" / "models"),
        (
            job_environment(f"laptop:{tmp_path}", ISENTROPIC_RUNS="/big"),
            "/big",
            "/big/.cache/models",
        ),
        (
            job_environment(f"laptop:{tmp_path}"),
            home / "isentropic-runs",
            home / "isentropic-runs/.cache/models",
        ),
        (
            job_environment(),
            home / "isentropic-runs",
            home / "isentropic-runs/.cache/models",
        ),  # plain ray job submit
    ]
    for environ, runs, cache in cases:
        use_durable_folders(environ)
        assert environ.get("ISENTROPIC_RUNS") == (runs and str(runs))
        assert environ.get("ISENTROPIC_CACHE") == (cache and str(cache))
        assert ("runs are written to" in capsys.readouterr().err) == (
            runs is not None and str(runs) != "/big"
        )


SCRIPTS = {
    "sweep": ["experiment=ce_gppo_tiny", "name=taken", "seed=0,1"],
    "branch": ["run=taken", "steps=1", "objective.beta1=0,1"],
    "attribute": ["run=taken", "steps=1"],
    "evaluate": ["run=taken"],
    "export": ["runs/taken"],
    "replay": ["run=taken", "step=1"],
    "report": ["taken", f"out={os.devnull}"],
}


@pytest.fixture(scope="module")
def in_a_job(tmp_path_factory, run_scripts):
    """Where they were started, and what each came to."""
    root = tmp_path_factory.mktemp("job")
    folder = root / "home" / "isentropic-runs" / "taken"
    folder.mkdir(parents=True)
    (folder / "notes.txt").touch()
    environ = (
        os.environ | job_environment() | {"HOME": str(root / "home"), "PYTHONPATH": str(PLATFORM)}
    )
    return folder, run_scripts([*SCRIPTS.items()], cwd=root, env=environ)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_of_a_job_looks_into_the_durable_folder(in_a_job, script):
    """Also where the job was made by Ray's own `ray job submit`, in a copy of the tree that has no runs/."""
    folder, scripts = in_a_job
    done = scripts[script]
    assert done["code"] == 2, done["error"]
    told, error = done["error"].splitlines()[:2]
    assert f"runs are written to {folder.parent}" in told
    assert str(folder) in error and "no such folder" not in error
    assert [path.name for path in folder.parents[2].iterdir()] == ["home"]


def test_the_jobs_command_is_quoted():
    assert submit.entrypoint("train", ["run.name=a b"]) == "python jobs/train.py 'run.name=a b'"


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 3, 3),
        ("FAILED", 75, 75),
        ("FAILED", None, 1),
        ("STOPPED", None, 75),
    ],
)
def test_the_jobs_exit_code_is_passed_on(status, driver, code):
    assert exit_code(SimpleNamespace(status=status, driver_exit_code=driver)) == code


class Log:
    """A job whose log comes in two parts, with a connection that breaks in the middle of the first."""

    def __init__(self):
        self.calls = 0

    async def tail_job_logs(self, name):
        self.calls += 1
        yield "step 1\n"
        if self.calls == 1:
            yield "st"
            raise RuntimeError("connection closed")
        yield "step 2\n"

    def get_job_info(self, name):
        return SimpleNamespace(status="SUCCEEDED", driver_exit_code=0)

    def get_job_logs(self, name):
        return "step 1\nstep 2\nlast words\n"


def test_a_broken_connection_repeats_no_line(monkeypatch):
    monkeypatch.setattr(submit_client, "POLL_S", 0)
    written = []
    submit_client.follow(Log(), "j", written.append)
    assert "".join(written) == "step 1\nstep 2\nlast words\n"
