"""The wall around a reward worker: what the system lets a check do, whatever code it comes to run.

A check reads text that a model wrote. Grammars (grading/plain.py) keep that text away from
everything that evaluates; the wall is for the day on which one of them has a hole. Its layers, each
of which stands without the others:

    limits      memory, CPU, no file may grow, no process or thread may start, few handles, no core
    namespaces  no network device, no other process's System V memory, nothing under /proc
    user        as root: nobody, if Python's files can be read by others
    landlock    files: Python and its packages may be read, and modules that are loaded; nothing may
                be written; no TCP, no signal outward
    privileges  no capability, none to be gained; closed to debuggers
    seccomp     a short list of system calls: no socket, no process, no signal, no opening to write

A container or a kernel may forbid some. `enter` then goes on with the rest, and reports which are
missing and what still gets out. With `rewards.network=true` a check may connect to servers; the rest
stands.
"""

import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from tempfile import TemporaryDirectory

from isentropic.tasks.grading.readable import code_folders, loaded_files, other_folders

NOBODY = 65534
OPEN_FILES = 64
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x8000000, 0x10000000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
CAPABILITY_VERSION_3 = 0x20080522
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# What Python, numpy and sympy call to compute, to import, and to read and write open handles.
SYSTEM_CALLS = """
    read readv pread64 write writev close lseek fstat stat lstat newfstatat statx access faccessat
    faccessat2 readlink readlinkat getdents64 getcwd brk mmap munmap mprotect mremap madvise futex
    sched_yield sched_getaffinity rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack clock_gettime
    clock_getres gettimeofday time nanosleep clock_nanosleep restart_syscall poll ppoll getpid
    getppid gettid getuid geteuid getgid getegid getrlimit setrlimit getrusage times uname sysinfo
    getrandom rseq set_robust_list exit exit_group epoll_ctl epoll_wait epoll_pwait epoll_pwait2
"""
# Those of a check that may ask a server: sockets, and the threads that look up its name.
NETWORK_CALLS = """
    connect sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg getsockname getpeername getsockopt
    setsockopt shutdown socketpair epoll_create1 eventfd2 pipe2 ioctl select pselect6 dup
    rt_sigtimedwait set_tid_address
"""
CLONE_THREAD = 0x10000
# What looks up names, and which servers are trusted.
NETWORK_FILES = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
)


@dataclass(frozen=True)
class Wall:
    """What stands between a check and the machine."""

    missing: dict[str, str]  # layers that the system refused, with its reason
    gaps: tuple[str, ...]  # forbidden actions that worked when tried from inside

    def __str__(self) -> str:
        standing = ", ".join(name for name in LAYERS if name not in self.missing)
        text = f"walled by {standing or 'nothing'}"
        if self.missing:
            text += "; missing: " + "; ".join(f"{key} ({why})" for key, why in self.missing.items())
        if self.gaps:
            text += f"; code in an answer, should it ever run, could {', '.join(self.gaps)}"
        return text


def enter(memory_gib: float, *, network: bool = False) -> Wall:
    """Puts this process behind the wall, for good. Its working folder should be empty.

    If the system refuses a layer it goes on without; the caller has to report that.

    Args:
        network: leave open the way to servers, and to nothing else.
    """
    prepare()
    missing = {}
    for name, layer in (LAYERS | (WITH_NETWORK if network else {})).items():
        try:
            layer(memory_gib)
        except Exception as error:  # any of three libraries may raise: the user sees each reason
            missing[name] = str(error) or type(error).__name__
    forbidden = {name: attempt for name, attempt in ATTEMPTS.items() if not network or name != ASKS}
    return Wall(missing, tuple(name for name, attempt in forbidden.items() if _works(attempt)))


def inspect(timeout_s: float = 60.0) -> Wall:
    """Finds out which wall a reward worker has on this machine, by building one.

    Raises:
        OSError, subprocess.SubprocessError: the process in which it is built did not answer.
    """
    command = [sys.executable, "-P", "-m", "isentropic.tasks.grading.wall"]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    answer = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=True
    )
    values = json.loads(answer.stdout)
    return Wall(values["missing"], tuple(values["gaps"]))


@cache
def prepare() -> None:
    """Does once, before workers are forked, what each of them would have to repeat."""
    # Both imports look for a library by starting a process, which a worker cannot. If one fails
    # here it fails in the worker too, and there the layer reports it.
    with suppress(Exception):
        import pyseccomp  # noqa: F401
    with suppress(Exception):
        from py_landlock import Landlock

        _ = Landlock().abi_version
    if _is_roots():
        _closed_to_others()


@cache
def _is_roots() -> bool:
    """Returns True if the run is root's."""
    # Cached, and first called before the wall: a layer of it changes what `os.getuid` says.
    return os.getuid() == 0


@cache
def _closed_to_others() -> str | None:
    """Returns the first file or folder of Python closed to `nobody`, or None; for root only."""
    modules = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        for path in (*code_folders(), *filter(None, modules)):
            if not os.access(path, os.R_OK, effective_ids=True):
                return path
        return None
    finally:
        os.seteuid(0)
        os.setegid(0)


def _limits(memory_gib: float, network: bool = False) -> None:
    memory = int(memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        # It counts threads too, one of which looks up names.
        *([] if network else [(resource.RLIMIT_NPROC, 0)]),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        resource.setrlimit(kind, (limit, limit))


def _namespaces(memory_gib: float, network: bool = False) -> None:
    namespaces = CLONE_NEWNS | CLONE_NEWIPC | (0 if network else CLONE_NEWNET)
    try:
        _system("unshare", namespaces)
    except PermissionError:
        # Become another user first: inside a new user namespace root no longer could.
        with suppress(OSError):
            _user(memory_gib)
        _system("unshare", namespaces | CLONE_NEWUSER)
    _system("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    _system("mount", b"none", b"/proc", b"tmpfs", 0, b"size=4k,mode=0555")


def _user(memory_gib: float) -> None:
    if not _is_roots():
        raise PermissionError("only root can become another user")
    if os.getuid() == NOBODY:
        return
    closed = _closed_to_others()
    if closed is not None:
        raise PermissionError(f"Python lies where no other user can read it: {closed}")
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _landlock(memory_gib: float, network: bool = False) -> None:
    from py_landlock import AccessFs, Landlock

    rules = Landlock(strict=False).allow_read(*code_folders())
    for path in loaded_files():
        rules.add_path_rule(path, access=AccessFs.READ_FILE)
    if network:
        rules.allow_all_network()
        for path in filter(os.path.exists, NETWORK_FILES):
            # What may be done with a folder is refused in a rule for a file.
            folder = AccessFs.READ_DIR if os.path.isdir(path) else AccessFs(0)
            rules.add_path_rule(path, access=AccessFs.READ_FILE | folder)
    rules.apply()


def _privileges(memory_gib: float) -> None:
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _system("capset", header, nothing)
    _system("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _system("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    # A worker must not outlive its server. Not earlier, because a change of user clears this.
    _system("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _seccomp(memory_gib: float, network: bool = False) -> None:
    import pyseccomp
    from pyseccomp import ALLOW, EQ, MASKED_EQ, Arg

    calls = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for name in (SYSTEM_CALLS + (NETWORK_CALLS if network else "")).split():
        # A call that an older libseccomp has no name for stays forbidden.
        with suppress(OSError):
            calls.add_rule(ALLOW, name)
    calls.add_rule(ALLOW, "open", Arg(1, MASKED_EQ, WRITING, 0))
    calls.add_rule(ALLOW, "openat", Arg(2, MASKED_EQ, WRITING, 0))
    calls.add_rule(ALLOW, "prlimit64", Arg(0, EQ, 0))  # of this process
    # Only these: F_SETOWN could send a signal.
    for command in (fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL):
        calls.add_rule(ALLOW, "fcntl", Arg(1, EQ, command))
    if network:
        calls.add_rule(ALLOW, "fcntl", Arg(1, EQ, fcntl.F_SETFL))
        # Not AF_UNIX: services of the machine, some of them root's, listen there.
        for family in (socket.AF_INET, socket.AF_INET6):
            calls.add_rule(ALLOW, "socket", Arg(0, EQ, family))
        calls.add_rule(ALLOW, "clone", Arg(0, MASKED_EQ, CLONE_THREAD, CLONE_THREAD))
        # Its flags cannot be seen here; without it threads start by `clone`.
        calls.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    calls.load()


LAYERS: dict[str, Callable[[float], None]] = {
    "limits": _limits,
    "namespaces": _namespaces,
    "user": _user,
    "landlock": _landlock,
    "privileges": _privileges,
    "seccomp": _seccomp,
}
WITH_NETWORK: dict[str, Callable[[float], None]] = {
    "limits": partial(_limits, network=True),
    "namespaces": partial(_namespaces, network=True),
    "landlock": partial(_landlock, network=True),
    "seccomp": partial(_seccomp, network=True),
}


def _system(name: str, *arguments: object) -> None:
    """Calls a function of the C library that Python does not offer; raises OSError if it fails."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


def _send() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        # Sends no packet: it only looks for a route.
        connection.connect(("192.0.2.1", 9))


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _list_others() -> None:
    for folder in other_folders():
        with suppress(OSError):
            os.listdir(folder)
            return
    raise PermissionError("there is no other folder, or none can be listed")


ASKS = "use the network"
ATTEMPTS: dict[str, Callable[[], object]] = {
    "read files": lambda: os.close(os.open("/etc/passwd", os.O_RDONLY)),
    "read the folder of your script": _list_others,
    "write files": lambda: os.close(os.open("attempt", os.O_WRONLY | os.O_CREAT)),
    ASKS: _send,
    "start a process": _fork,
    "signal the run": lambda: os.kill(os.getppid(), 0),
    "read the run's environment": lambda: os.close(
        os.open(f"/proc/{os.getppid()}/environ", os.O_RDONLY)
    ),
}


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        child = os.fork()
        if child == 0:
            print(json.dumps(asdict(enter(4.0))), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
