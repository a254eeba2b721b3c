"""Says what would keep a run from starting here or on the nodes of RAY_ADDRESS: python jobs/doctor.py

The exit code is 1 if something has to be repaired first.
"""

import os
import resource
import shutil
import socket
import stat
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from isentropic.experiments.doctor.finding import Finding
from isentropic.experiments.program import DONE, FAULT, program
from isentropic.experiments.settings.options import Options
from isentropic.folders import cache_folder, ray_folder, runs_folder, variable

OPTIONS = Options("doctor", __doc__, ())
GIB = 2**30
ROOT = Path(__file__).resolve().parents[4]
# Of no use here, and fatal if they were built for another torch.
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
MEMORY_GIB, DISK_GIB, SHM_GIB, FILES = 4, 2, 1, 1024
BUSY = 4.0  # processes per CPU, beyond which a Ray has been seen not to come up
SOCKET_BYTES = 107  # of a Unix socket's path, without the closing zero
CHECK_S = 8.0  # for one check, all of which run at the same time


def doctor(options: dict[str, Any], overrides: list[str]) -> int:
    """Print the findings. Returns 1 if one of them is wrong."""
    findings = [*examine(), *cluster()]
    for finding in findings:
        print(
            f"{finding.state:<8} {finding.what}"
            + (f"\n         -> {finding.remedy}" if finding.remedy else "")
        )
    wrong = sum(finding.state == "wrong" for finding in findings)
    print(f"{wrong} to repair before a run can start" if wrong else "a run can start here")
    return FAULT if wrong else DONE


def examine() -> Iterator[Finding]:
    """Run all checks at once. One that breaks or does not end is a finding too."""
    checks = (
        python,
        packages,
        memory,
        load,
        disk,
        ray_sockets,
        shared_memory,
        open_files,
        loopback,
        proxy,
        ray_token,
    )
    checks += (ray_address, devices, engine, weights_and_biases, reward_checks)
    pool = ThreadPoolExecutor(len(checks))
    futures = [(check, pool.submit(lambda check=check: list(check()))) for check in checks]
    for check, future in futures:
        try:
            yield from future.result(CHECK_S)
        except TimeoutError:
            yield Finding(
                "warning",
                f"{check.__name__}: no answer within {CHECK_S:g} s",
                "Look at that part by hand.",
            )
        except Exception as error:
            yield Finding(
                "wrong",
                f"{check.__name__}: {type(error).__name__}: {error}",
                "Look at that part by hand.",
            )
    pool.shutdown(wait=False, cancel_futures=True)


def python() -> Iterator[Finding]:
    project = _project()
    wanted = SpecifierSet(project["requires-python"] if project else ">=3.11,<3.13")
    found = ".".join(map(str, sys.version_info[:3]))
    if found in wanted:
        yield Finding("ok", f"Python {found}")
    else:
        yield Finding("wrong", f"Python {found}, {wanted} is needed", "make venv PYTHON=python3.12")


def packages() -> Iterator[Finding]:
    """Check each requirement against what is installed; no package is imported."""
    project = _project()
    texts = project["dependencies"] if project else requires("isentropic") or []
    bad = 0
    for requirement in (Requirement(text) for text in texts):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            bad += 1
            state = found or "is not installed"
            message = f"{requirement.name} {state}, {requirement.specifier} is needed"
            yield Finding(
                "wrong",
                message,
                f'pip install "{requirement.name}{requirement.specifier}" (or make venv)',
            )
    if not bad:
        yield Finding("ok", f"packages: {len(texts)} of the versions that are needed")
    for name in LEFT_OUT:
        if (found := _version(name)) is not None and not _fits_torch(name):
            message = (
                f"{name} {found} is built for another torch: `import transformers` fails with it"
            )
            yield Finding("wrong", message, f"pip uninstall {name} (nothing here needs it)")


def engine() -> Iterator[Finding]:
    """Each engine that a run can choose, on the best device of this machine."""
    import torch

    from isentropic.rollout import ENGINES

    devices = ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)
    for name, kind in ENGINES.items():
        reasons = [kind.missing(device, images=False) for device in devices]
        if not reasons[0]:
            yield Finding("ok", f"engine {name} can run on {devices[0]}")
        else:
            yield Finding("wrong" if all(reasons) else "warning", f"engine {name}: {reasons[0]}")


def memory() -> Iterator[Finding]:
    free = psutil.virtual_memory().available / GIB
    message = f"memory: {free:.1f} GiB free"
    if free >= MEMORY_GIB:
        yield Finding("ok", message)
    else:
        remedy = (
            f"The demo needs {MEMORY_GIB}: end other programs, or learner.num_ranks=1 "
            "rollout.num_actors=1."
        )
        yield Finding("warning" if free >= 2 else "wrong", message, remedy)


def load() -> Iterator[Finding]:
    """Check that processes get a core soon enough for Ray's deadlines at its start."""
    cores = os.cpu_count() or 1
    waiting = os.getloadavg()[0]
    message = f"load: {waiting:.1f} processes want the {cores} CPUs"
    if waiting <= BUSY * cores:
        yield Finding("ok", message)
    else:
        remedy = (
            "Ray may not come up before its own deadlines; a run then ends with 75, try again. "
            "End other programs, or wait."
        )
        yield Finding("warning", message, remedy)


def disk() -> Iterator[Finding]:
    """Check the room in the folders that a run writes to, and that they can be written."""
    places = (
        ("runs", runs_folder(), "ISENTROPIC_RUNS=<elsewhere> or run.dir=<elsewhere>"),
        ("the cache of models", cache_folder(), "ISENTROPIC_CACHE=<elsewhere>"),
        ("Ray's session", ray_folder(), "TMPDIR=<elsewhere>"),
    )
    for use, folder, elsewhere in places:
        usage = shutil.disk_usage(_existing(folder))
        message = f"disk for {use}: {usage.free / GIB:.1f} GiB free at {folder}"
        if usage.free < DISK_GIB * GIB:
            yield Finding(
                "wrong", message, f"{DISK_GIB} GiB are needed: make room, or set {elsewhere}."
            )
        else:
            yield Finding("ok", message)
        if reason := _not_writable(folder):
            yield Finding(
                "wrong",
                f"{folder}, for {use}, cannot be made or written ({reason})",
                f"Choose a folder of your own: {elsewhere}.",
            )


def ray_sockets() -> Iterator[Finding]:
    """Check that the path of Ray's sockets is not too long for the kernel."""
    folder = ray_folder()
    session = f"session_{datetime.now():%Y-%m-%d_%H-%M-%S_%f}_{os.getpid()}"
    longest = len(os.fsencode(folder / session / "sockets" / "plasma_store"))
    if longest > SOCKET_BYTES:
        yield Finding(
            "wrong",
            f"Ray's sockets in {folder} would have a path of {longest} bytes; {SOCKET_BYTES} are "
            "allowed",
            "Set TMPDIR (or RAY_TMPDIR) to a shorter path, such as /tmp.",
        )


def shared_memory() -> Iterator[Finding]:
    if not Path("/dev/shm").is_dir():
        return
    free = shutil.disk_usage("/dev/shm").free / GIB
    if free >= SHM_GIB:
        yield Finding("ok", f"/dev/shm: {free:.1f} GiB free")
    else:
        remedy = (
            "Containers: docker run --shm-size=4g, or an emptyDir of medium Memory. "
            "Else cluster.object_store_gib=0.5."
        )
        yield Finding(
            "warning", f"/dev/shm: {free:.2f} GiB free, Ray keeps weights in transit there", remedy
        )


def reward_checks() -> Iterator[Finding]:
    """Builds the wall that the checks of answers stand behind, and tries what gets through it."""
    from isentropic.tasks.grading import wall

    found = wall.inspect(CHECK_S)
    remedy = (
        "Landlock (Linux 5.13 or newer) and libseccomp (apt-get install libseccomp2) close these."
    )
    state = "warning" if found.gaps else "ok"
    yield Finding(state, f"reward checks: {found}", remedy if found.gaps else "")


def open_files() -> Iterator[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = soft != resource.RLIM_INFINITY and soft < FILES
    remedy = f"ulimit -n 65536 (Ray needs {FILES} or more)" if low else ""
    yield Finding("warning" if low else "ok", f"open files: {soft}", remedy)


def loopback() -> Iterator[Finding]:
    """Check that ranks and engines can meet on local ports, and that this machine knows its name."""
    try:
        with socket.socket() as server, socket.socket() as client:
            server.bind(("127.0.0.1", 0))
            server.listen()
            client.settimeout(2)
            client.connect(server.getsockname())
        yield Finding("ok", "ports: 127.0.0.1 can be listened on and reached")
    except OSError as error:
        yield Finding(
            "wrong",
            f"ports: 127.0.0.1 cannot be used ({error})",
            "Allow loopback in the firewall or container.",
        )
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        name = socket.gethostname()
        yield Finding(
            "warning",
            f"this machine does not know its own name {name}",
            f"Add '127.0.0.1 {name}' to /etc/hosts.",
        )


def proxy() -> Iterator[Finding]:
    names = [name for name in ("http_proxy", "https_proxy", "grpc_proxy") if os.environ.get(name)]
    exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if names and "localhost" not in exempt and "127.0.0.1" not in exempt:
        message = (
            f"{', '.join(names)} set without no_proxy: processes of this machine may talk through "
            "the proxy"
        )
        yield Finding("warning", message, "export no_proxy=localhost,127.0.0.1")


def ray_token() -> Iterator[Finding]:
    """Check Ray's token: whoever has it may run code here; nobody else may."""
    if os.environ.get("RAY_AUTH_MODE", "token") == "disabled":
        remedy = "unset RAY_AUTH_MODE, unless nobody else can reach this machine's ports."
        yield Finding(
            "warning", "RAY_AUTH_MODE=disabled: whoever reaches Ray's ports may run code", remedy
        )
    path = Path(variable("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield Finding(
            "warning",
            f"{path} can be read by other users: it lets them run code as you",
            f"chmod 600 {path}",
        )
    elif path.is_file():
        yield Finding("ok", f"Ray token: {path}, readable by you only")
    elif _ray_makes_a_token() and (reason := _not_writable(path.parent)):
        yield Finding(
            "wrong",
            f"Ray cannot write its token to {path} ({reason})",
            "Set HOME to a folder that you can write, or put a token into a file that only you can "
            "read and set RAY_AUTH_TOKEN_PATH=<that file>.",
        )


def ray_address() -> Iterator[Finding]:
    address = variable("RAY_ADDRESS")
    if not address:
        yield Finding("ok", "Ray: RAY_ADDRESS is not set, a run starts a Ray of its own")
        return
    from isentropic.actors.ray_runtime import check_address

    try:
        check_address(SimpleNamespace(address=address))
        yield Finding("ok", f"Ray answers at {address}")
    except ValueError as error:
        yield Finding(
            "wrong",
            f"RAY_ADDRESS={address}: {error}",
            "unset RAY_ADDRESS to run on this machine only.",
        )


def cluster() -> Iterator[Finding]:
    """Looks at all nodes of the Ray that RAY_ADDRESS names, if it answers."""
    address = variable("RAY_ADDRESS")
    if not address or any(finding.state == "wrong" for finding in ray_address()):
        return
    from isentropic.experiments.doctor.cluster import examine_cluster

    try:
        yield from examine_cluster(address, runs_folder())
    except Exception as error:
        yield Finding(
            "wrong",
            f"Ray: {type(error).__name__}: {error}",
            "Look at that Ray by hand: ray status.",
        )


def devices() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        yield Finding("ok", f"no GPU: runs on {cores} CPU cores (cluster=local)")
        return
    for index in range(torch.cuda.device_count()):
        free, total = (each / GIB for each in torch.cuda.mem_get_info(index))
        yield Finding(
            "ok",
            f"GPU {index}: {torch.cuda.get_device_name(index)}, {free:.0f} of {total:.0f} GiB free",
        )


def weights_and_biases() -> Iterator[Finding]:
    import wandb

    from isentropic.metrics.sinks.wandb import why_offline

    reason = why_offline(wandb, need_key=True)
    if reason:
        remedy = (
            "Runs log offline; upload later with `wandb sync`. metrics.jsonl has everything either "
            "way."
        )
        yield Finding("warning", f"W&B: {reason}", remedy)
    else:
        yield Finding("ok", "W&B answers")


def _ray_makes_a_token() -> bool:
    names = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    return os.environ.get("RAY_AUTH_MODE", "token") == "token" and not any(map(variable, names))


def _existing(folder: Path) -> Path:
    """Return the folder, or the one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _not_writable(folder: Path) -> str:
    """Return why no file can be made in the folder, or above it if it is not there; "" if it can.

    Permission bits alone do not show a read-only file system.
    """
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _project() -> dict | None:
    """Return the [project] table of the tree; None if the package was installed without it."""
    path = ROOT / "pyproject.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))["project"] if path.is_file() else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _fits_torch(name: str) -> bool:
    needs = [Requirement(text) for text in requires(name) or []]
    torch = _version("torch") or ""
    return all(
        each.specifier.contains(torch, prereleases=True) for each in needs if each.name == "torch"
    )


def main() -> NoReturn:
    """Run the doctor as a process of its own."""
    code = program(doctor, OPTIONS)()
    sys.stdout.flush()
    # A check that hangs must not hold up the end.
    os._exit(code)
