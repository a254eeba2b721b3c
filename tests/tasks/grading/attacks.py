"""A run under attack: each answer names code that its check runs in a reward worker. Prints what came of it as JSON.

python attacks.py FOLDER          FOLDER has 'secret' and 'target' in it, and is open to all
"""

import asyncio
import ctypes
import json
import mmap
import os
import pickle
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import numpy as np

from isentropic.records import Prompt, Rollout, RolloutKey
from isentropic.tasks.grading.rewards import RewardsConfig, RewardWorkers

ERROR = -7.0
LIBRARY = ctypes.CDLL(None, use_errno=True)
ATTACKS = {}


class Escape:
    """A pickle that runs a shell when it is read."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def attack(function):
    """`function(folder, run, port)`: it has worked unless it raises, or leaves no trace."""
    ATTACKS[function.__name__] = function
    return function


def system(name, *arguments):
    if getattr(LIBRARY, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)


@attack
def read_a_file(folder, run, port):
    (folder / "secret").read_text()


@attack
def list_a_folder(folder, run, port):
    os.listdir(folder)


@attack
def read_the_environment_of_the_run(folder, run, port):
    Path(f"/proc/{run}/environ").read_bytes()


@attack
def read_the_memory_of_the_run(folder, run, port):
    open(f"/proc/{run}/mem", "rb").close()


@attack
def read_its_own_environment(folder, run, port):
    if b"canary" not in Path("/proc/self/environ").read_bytes() and not os.environ:
        raise PermissionError


@attack
def write_a_file(folder, run, port):
    (folder / "pwned").write_text("x")


@attack
def write_here(folder, run, port):
    Path("pwned").touch()


@attack
def append(folder, run, port):
    with (folder / "target").open("a") as file:
        file.write("x")


@attack
def truncate(folder, run, port):
    os.truncate(folder / "target", 0)


@attack
def map_a_file(folder, run, port):
    with (folder / "target").open("r+b") as file:
        mmap.mmap(file.fileno(), 0)[0:1] = b"x"


@attack
def write_a_database(folder, run, port):
    sqlite3.connect(":memory:").execute(f"attach '{folder}/pwned' as pwned")
    with sqlite3.connect(folder / "pwned") as database:
        database.execute("create table t (c)")


@attack
def make_a_node(folder, run, port):
    os.mknod(folder / "pwned")


@attack
def make_a_folder(folder, run, port):
    os.mkdir(folder / "pwned")


@attack
def make_a_link(folder, run, port):
    os.symlink("/etc", folder / "pwned")


@attack
def make_a_hard_link(folder, run, port):
    os.link(folder / "target", folder / "pwned")


@attack
def rename(folder, run, port):
    os.rename(folder / "target", folder / "pwned")


@attack
def remove(folder, run, port):
    os.remove(folder / "target")


@attack
def change_the_owner(folder, run, port):
    os.chown(folder / "target", os.getuid(), os.getgid())


@attack
def change_the_mode(folder, run, port):
    os.chmod(folder / "target", 0o777)


@attack
def change_the_time(folder, run, port):
    os.utime(folder / "target")


@attack
def connect(folder, run, port):
    socket.create_connection(("127.0.0.1", port), timeout=1).close()


@attack
def ask_the_web(folder, run, port):
    urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=1)


@attack
def send_a_datagram(folder, run, port):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port))


@attack
def listen(folder, run, port):
    socket.create_server(("127.0.0.1", 0))


@attack
def connect_by_name(folder, run, port):
    socket.socket(socket.AF_UNIX).connect(f"\0isentropic-{port}")


@attack
def run_a_shell(folder, run, port):
    if os.system(f"touch {folder}/pwned") != 0:
        raise PermissionError


@attack
def run_a_shell_of_the_library(folder, run, port):
    if LIBRARY.system(f"touch {folder}/pwned".encode()) != 0:
        raise PermissionError


@attack
def run_a_program(folder, run, port):
    subprocess.run(["touch", f"{folder}/pwned"], check=True)


@attack
def become_a_program(folder, run, port):
    os.execv("/bin/sh", ["sh", "-c", f"touch {folder}/pwned"])


@attack
def fork(folder, run, port):
    if os.fork() == 0:
        os._exit(0)


@attack
def start_a_thread(folder, run, port):
    threading.Thread(target=print).start()


@attack
def kill_the_run(folder, run, port):
    os.kill(run, signal.SIGKILL)


@attack
def stop_the_server(folder, run, port):
    os.kill(os.getppid(), signal.SIGSTOP)


@attack
def kill_everything(folder, run, port):
    os.kill(-1, signal.SIGKILL)


@attack
def signal_by_a_handle(folder, run, port):
    import fcntl

    fcntl.fcntl(3, fcntl.F_SETOWN, run)


@attack
def debug_the_run(folder, run, port):
    system("ptrace", 16, run, None, None)


@attack
def become_root(folder, run, port):
    os.setresuid(0, 0, 0)


@attack
def make_a_namespace(folder, run, port):
    system("unshare", 0x10000000)


@attack
def mount(folder, run, port):
    system("mount", b"none", str(folder).encode(), b"tmpfs", 0, None)


@attack
def share_memory(folder, run, port):
    from multiprocessing import shared_memory

    shared_memory.SharedMemory(name=f"isentropic-{port}")


@attack
def write_on_its_terminal(folder, run, port):
    for handle in (0, 1, 2):
        os.write(handle, b"pwned\n")
    raise PermissionError  # whether it arrived is seen outside


@attack
def use_an_inherited_handle(folder, run, port):
    for handle in range(4, 64):
        try:
            os.write(handle, b"pwned\n")
        except OSError:
            continue
        return
    raise PermissionError


@attack
def answer_with_a_pickle(folder, run, port):
    os.write(3, pickle.dumps(Escape(folder / "pwned")) + b"\n")


@attack
def answer_with_words(folder, run, port):
    os.write(3, b'["' + b"x" * 4_000_000 + b'"]\n')


@attack
def answer_with_nesting(folder, run, port):
    os.write(3, b"[" * 900_000 + b"\n")


@attack
def fill_the_memory(folder, run, port):
    bytearray(64 * 2**30)


@attack
def fill_the_memory_slowly(folder, run, port):
    blocks = []
    while True:
        blocks.append(b"x" * 2**26)


@attack
def never_end(folder, run, port):
    while True:
        pass


@attack
def exit_now(folder, run, port):
    raise SystemExit


class AttackedTask:
    """A response names an attack, or is a number and its own reward."""

    isolated = True
    max_turns = 1

    def __init__(self, folder, run, port):
        self.folder, self.run, self.port = folder, run, port

    def grade(self, prompt, turns):
        if turns[0] in ATTACKS:
            ATTACKS[turns[0]](self.folder, self.run, self.port)
            return 1.0
        return float(turns[0])


class LetterChat:
    """A token is the code of a character."""

    def turn_texts(self, rollout):
        return ["".join(map(chr, rollout.token_ids[start:end])) for start, end in rollout.turns]


def rollout(answer):
    return Rollout(
        key=RolloutKey("train", 0, 0, 0),
        prompt=Prompt(prompt_id="p", messages=(), answer="1"),
        token_ids=np.array([0, *map(ord, answer)]),
        turns=((1, 1 + len(answer)),),
        rollout_logprob=np.zeros(len(answer), np.float32),
        temperature=1.0,
        seed=0,
        finish_reason="stop",
        step=1,
        policy_version=0,
    )


async def under_attack(workers):
    """Reward of each attack, and of a plain answer right behind it."""
    rewards = {}
    for name in ATTACKS:
        rewards[name] = await workers.grade([rollout(name), rollout("0.5")])
    return rewards


def main(folder):
    import attacks  # as the server of the workers will find it

    os.environ["WANDB_API_KEY"] = "canary"
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    named = socket.socket(socket.AF_UNIX)
    named.bind(f"\0isentropic-{port}")
    named.listen()
    file = os.open(folder / "target", os.O_WRONLY)
    os.set_inheritable(file, True)
    config = RewardsConfig(
        workers=1,
        timeout_s=2.0,
        deadline_s=60.0,
        memory_gib=2.0,
        batch_size=1,
        reward_on_error=ERROR,
        max_errors_in_a_row=None,
    )
    workers = RewardWorkers(attacks.AttackedTask(folder, os.getpid(), port), LetterChat(), config)
    try:
        rewards = asyncio.run(attacks.under_attack(workers))
        counts, wall = workers.counts(), workers.wall
    finally:
        workers.close()
    answer = {"rewards": rewards, "counts": counts, "uid": os.getuid()}
    print(json.dumps({**answer, "missing": wall.missing, "gaps": wall.gaps}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
