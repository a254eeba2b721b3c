"""Code that got into a check reaches nothing: real attempts, as root and as an ordinary user, and layer by layer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from isentropic.tasks.grading import readable, wall

PLATFORM = Path(wall.__file__).parents[3]
ATTACKS = Path(__file__).with_name("attacks.py")
ORDINARY = 12345
ROOT = os.getuid() == 0


def python_for_all():
    """An interpreter that any user can start, and the folders that it needs; None if there is none."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = next(folder for folder in sys.path if folder.endswith("site-packages"))
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        call = [python, "-c", "import numpy, pyseccomp, py_landlock, isentropic.tasks"]
        options = {"user": ORDINARY, "group": ORDINARY, "extra_groups": []} if ROOT else {}
        environment = {"PYTHONPATH": f"{packages}:{PLATFORM}"}
        try:
            subprocess.run(call, env=environment, check=True, capture_output=True, **options)
        except (OSError, subprocess.SubprocessError):
            continue
        return python, environment
    return None


def start(arguments, *, as_user=None, python=None):
    """Standard output and error of a script, as the user given."""
    environment = {"PYTHONPATH": str(PLATFORM)}
    if python is not None:
        python, environment = python
    options = {"user": as_user, "group": as_user, "extra_groups": []} if as_user else {}
    result = subprocess.run(
        [python or sys.executable, "-W", "ignore", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout, result.stderr


def users():
    """Ways to run: as whoever runs the tests; as root with a Python that nobody can read; as an ordinary user."""
    return ["this user", *(["root, Python for all", "ordinary user"] if ROOT else [])]


@pytest.fixture(params=users())
def run_as(request):
    if request.param == "this user":
        return start
    python = python_for_all()
    if python is None:
        pytest.skip("no interpreter here can be started by another user")
    as_user = ORDINARY if request.param == "ordinary user" else None
    return lambda arguments: start(arguments, as_user=as_user, python=python)


@pytest.fixture
def folder(tmp_path):
    """Open to all, its parents too: only the wall keeps a check out."""
    for parent in (tmp_path, *tmp_path.parents[:3]):
        if parent.stat().st_uid == os.getuid() and parent != Path("/tmp"):
            parent.chmod(0o755)
    folder = tmp_path / "open"
    folder.mkdir()
    for name in ("secret", "target"):
        (folder / name).write_text("as it was")
        (folder / name).chmod(0o666)
    folder.chmod(0o777)
    return folder


def test_no_attack_reaches_anything_and_each_is_an_error_of_its_own(folder, run_as):
    before = (folder / "target").stat()
    output, errors = run_as([ATTACKS, folder])
    result = json.loads(output)

    assert result["gaps"] == []
    assert {name: pair for name, pair in result["rewards"].items() if pair != [-7.0, 0.5]} == {}
    assert sum(result["counts"].values()) == len(result["rewards"])
    assert sorted(path.name for path in folder.iterdir()) == ["secret", "target"]
    assert (folder / "target").read_text() == "as it was"
    after = (folder / "target").stat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (
        before.st_mode,
        before.st_uid,
        before.st_mtime_ns,
    )
    assert "pwned" not in output + errors


# What each layer closes without the others, of `wall.ATTEMPTS`.
CLOSES = {
    "limits": {"start a process"},
    "namespaces": {"use the network", "read the run's environment"},
    "user": {"write files", "signal the run", "read the run's environment"},
    "landlock": {
        "read files",
        "read the folder of your script",
        "write files",
        "signal the run",
        "read the run's environment",
    },
    "privileges": set(),
    "seccomp": {"write files", "use the network", "start a process", "signal the run"},
}
ONE_LAYER = """
import json, os, sys, tempfile
from isentropic.tasks.grading import wall

wall.prepare()
os.chdir(tempfile.mkdtemp())
for name, layer in list(wall.LAYERS.items()):
    ours, theirs = os.pipe()
    if os.fork() == 0:
        wall.LAYERS = {name: layer}
        entered = wall.enter(4.0)
        os.write(theirs, json.dumps([name in entered.missing, list(entered.gaps)]).encode())
        os._exit(0)
    os.close(theirs)
    os.wait()
    print(name, os.read(ours, 65536).decode(), sep="\\t")
"""


def test_each_layer_stands_without_the_others(run_as, request):
    output, _ = run_as(["-c", ONE_LAYER])
    layers = {
        name: json.loads(values) for name, values in (x.split("\t") for x in output.splitlines())
    }
    assert set(layers) == set(CLOSES)
    left_open = {
        name: CLOSES[name] & set(gaps) for name, (missing, gaps) in layers.items() if not missing
    }
    if "root" in request.node.name or (ROOT and "this" in request.node.name):
        left_open["limits"] -= {"start a process"}  # the kernel does not count root's processes
    assert {name: gaps for name, gaps in left_open.items() if gaps} == {}
    assert layers["privileges"][1], "else this test shows less than it says"


NETWORK = """
import asyncio, http.server, os, socket, sys, tempfile, threading, urllib.request
from isentropic.tasks.grading import wall

class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_): ...

server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
wall.prepare()
os.chdir(tempfile.mkdtemp())
if os.fork() == 0:
    entered = wall.enter(8.0, network=sys.argv[1] == "open")
    url = f"http://localhost:{server.server_port}/"

    def asked():
        return urllib.request.urlopen(url, timeout=5).read().decode()

    async def asked_in_a_thread():
        return await asyncio.to_thread(asked)

    for attempt in (asked, lambda: asyncio.run(asked_in_a_thread()),
                    lambda: socket.socket(socket.AF_UNIX), lambda: open("/etc/passwd")):
        try:
            print("worked", attempt(), flush=True)
        except Exception as error:
            print("failed", flush=True)
    print("gaps", *entered.gaps, flush=True)
    os._exit(0)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.wait()
"""


@pytest.mark.parametrize("network", ["open", "closed"])
def test_the_way_to_servers_can_be_opened_and_nothing_else_with_it(network):
    """Name look-ups and the threads of an event loop work; sockets of the machine and files do not."""
    *attempts, gaps = start(["-c", NETWORK, network])[0].splitlines()
    opened = network == "open"
    assert attempts == (["worked hello"] * 2 if opened else ["failed"] * 2) + ["failed"] * 2
    assert gaps == "gaps"


LESS = """
import os
from isentropic.tasks.grading import wall

def refused(memory_gib):
    raise OSError("the kernel is too old")

wall.LAYERS.update(landlock=refused)
print(wall.enter(4.0), flush=True)
os._exit(0)
"""


SCRIPT = """
import asyncio, os, sys
from isentropic.records import Prompt
from isentropic.tasks.grading import wall
from isentropic.tasks.grading.pool import WorkerPool
from mine import Mine

pool = WorkerPool(Mine(), memory_gib=2.0, timeout_s=20.0, say=lambda text: None)
prompt = Prompt(prompt_id="p", messages=({"role": "user", "content": "?"},), answer="1")
here = os.path.dirname(os.path.abspath(__file__))

async def main():
    for turn in (f"{here}/mine.py", f"{here}/.env", f"{here}/late.py", here):
        print(*await pool.check([(prompt, (turn,))], 20.0))

asyncio.run(main())
print("gaps", *pool.wall.gaps, *wall.inspect().gaps)
pool.close()
"""
MINE = """
import os

class Mine:
    isolated = True
    max_turns = 1

    def grade(self, prompt, turns):
        try:
            return len(os.listdir(turns[-1])) if os.path.isdir(turns[-1]) else len(open(turns[-1]).read())
        except OSError:
            return -1.0
"""


def test_of_the_folder_of_a_script_only_the_modules_that_it_loaded_can_be_read(tmp_path):
    """`python my_script.py` has that folder on its path: with golds, keys and all runs in it."""
    for name, text in (("mine.py", MINE), (".env", "KEY=1"), ("late.py", ""), ("run.py", SCRIPT)):
        (tmp_path / name).write_text(text)
    *read, gaps = start([tmp_path / "run.py"])[0].splitlines()
    assert [float(x) for x in read] == [len(MINE), -1.0, -1.0, -1.0]
    assert gaps == "gaps"


def test_the_folders_of_a_users_own_are_not_those_of_packages(tmp_path, monkeypatch):
    packages = tmp_path / "lib" / "site-packages"
    packages.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), str(packages), *sys.path])
    assert str(packages) in readable.code_folders() and str(tmp_path) not in readable.code_folders()
    assert readable.other_folders()[0] == str(tmp_path)
    assert not {"/", "/usr", "/usr/local"} & set(readable.code_folders())


def test_what_is_missing_is_said_and_what_gets_out_by_it():
    """Where a container forbids a layer, the run goes on behind the rest."""
    output, _ = start(["-c", LESS])
    text = output.strip()
    assert "landlock (the kernel is too old)" in text
    assert "code in an answer, should it ever run, could read files" in text


def test_the_wall_of_this_machine_can_be_asked_for():
    found = wall.inspect()
    assert set(found.missing) <= set(wall.LAYERS)
    assert str(found).startswith("walled by ")
