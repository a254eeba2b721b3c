"""Which worker checks an answer: one that lives, owes nothing, and is asked for this very answer."""

import asyncio
import json
import os
import signal
import socket
import threading
from dataclasses import replace

import psutil
import pytest

from isentropic.records import Prompt
from isentropic.tasks.grading import pool as pool_module
from isentropic.tasks.grading import server
from isentropic.tasks.grading.outcome import LARGEST, from_json
from isentropic.tasks.grading.pool import OpenWall, WorkerPool
from isentropic.tasks.grading.wall import Wall
from isentropic.tasks.grading.worker import HANDLE

PROMPT = Prompt(prompt_id="p", messages=({"role": "user", "content": "?"},), answer="1")
RIGHT = "result = 1.0"
WRONG = "result = 0.0"
# Each makes later answers right, unless they are kept from it.
AHEAD = f"import os\nos.write({HANDLE}, b'[1.0]\\n' * 3)\nresult = 0.0"
NUMBERED = (
    f'import os\nos.write({HANDLE}, b\'{{"number": 1, "outcomes": [1.0]}}\\n\' * 3)\nresult = 0.0'
)
FLOAT = "import builtins\nbuiltins.float = type('F', (float,), {'__new__': lambda *_: 1.0})"
OUTCOME = (
    "from isentropic.tasks.grading import worker\nworker._outcome = lambda *_: 1.0\nresult = 0.0"
)


class Runs:
    """A reward as a user may write it: it runs the answer, and pays what that calls its result."""

    isolated = True
    max_turns = 1

    def grade(self, prompt, turns):
        names = {}
        exec(turns[-1], names)
        return names.get("result", 0.0)


class RunsAndSaysSo(Runs):
    runs_code = True


@pytest.fixture
def pool(request):
    made = WorkerPool(
        getattr(request, "param", Runs)(), memory_gib=2.0, timeout_s=10.0, say=lambda text: None
    )
    yield made
    made.close()


def checked(pool, *answers):
    async def one_by_one():
        return [await pool.check([(PROMPT, (answer,))], 10.0) for answer in answers]

    return [outcome for (outcome,) in asyncio.run(one_by_one())]


@pytest.mark.parametrize("answer", [AHEAD, NUMBERED])
def test_what_an_answer_writes_ahead_is_no_reply_to_a_later_one(pool, answer):
    outcomes = checked(pool, answer, WRONG, WRONG, RIGHT)
    assert outcomes[1:] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("pool", [RunsAndSaysSo], indirect=True)
@pytest.mark.parametrize("answer", [AHEAD, FLOAT, OUTCOME])
def test_an_answer_whose_code_runs_has_a_process_of_its_own(pool, answer):
    assert checked(pool, answer, WRONG, RIGHT)[1:] == [0.0, 1.0]


def with_gaps(monkeypatch, *gaps):
    start = pool_module._Server.start_worker

    def start_worker(server):
        return replace(start(server), wall=Wall({}, gaps))

    monkeypatch.setattr(pool_module._Server, "start_worker", start_worker)


@pytest.mark.parametrize("pool", [RunsAndSaysSo], indirect=True)
def test_no_code_of_an_answer_runs_behind_a_wall_with_gaps(pool, monkeypatch):
    with_gaps(monkeypatch, "read files")
    with pytest.raises(ValueError, match=r"could read files\. .*rewards\.accept_gaps=true"):
        checked(pool, RIGHT)
    pool._accepts_gaps = True
    assert checked(pool, RIGHT) == [1.0]


def test_a_reward_that_runs_nothing_is_only_told_of_gaps(pool, monkeypatch):
    with_gaps(monkeypatch, "read files")
    assert checked(pool, RIGHT) == [1.0]
    assert pool.wall.gaps == ("read files",)


def test_no_code_of_an_answer_gets_a_network_unless_it_is_allowed():
    made = dict(memory_gib=2.0, timeout_s=10.0, say=lambda text: None, network=True)
    with pytest.raises(OpenWall, match=r"RunsAndSaysSo: the reward may .*rewards\.network=true"):
        WorkerPool(RunsAndSaysSo(), **made)
    WorkerPool(RunsAndSaysSo(), **made, accept_gaps=True)
    WorkerPool(Runs(), **made)


def test_a_worker_that_died_while_it_was_idle_costs_no_answer(pool):
    assert checked(pool, RIGHT) == [1.0]
    (worker,) = pool._idle
    process = psutil.Process(worker.number)
    process.send_signal(signal.SIGKILL)
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        pass
    assert checked(pool, RIGHT) == [1.0]


def test_a_worker_that_goes_with_its_server_costs_no_answer(pool):
    """At rewards.batch_size=1 nobody else would check the answer again."""
    assert checked(pool, RIGHT) == [1.0]
    dead = pool._server._process

    async def killed_meanwhile():
        slow = asyncio.create_task(
            pool.check([(PROMPT, (f"import time\ntime.sleep(1)\n{RIGHT}",))], 10.0)
        )
        await asyncio.sleep(0.3)
        dead.kill()
        return await slow

    assert asyncio.run(killed_meanwhile()) == [1.0]
    assert pool._server._process is not dead
    assert checked(pool, RIGHT, "import os\nos._exit(3)", RIGHT) == [1.0, "crashed", 1.0]


def test_the_end_of_a_worker_of_an_earlier_server_ends_nothing(pool):
    assert checked(pool, RIGHT) == [1.0]
    (old,) = pool._idle
    pool._idle.clear()
    pool._server._process.kill()
    pool._server._process.wait()
    assert checked(pool, RIGHT) == [1.0]
    new = pool._server
    pool._end(old)
    assert pool._server is new and new._process.poll() is None
    assert checked(pool, RIGHT) == [1.0]


def test_a_server_ends_its_own_workers_alone():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stranger = os.fork()
    if stranger == 0:
        signal.pause()
    obeying = threading.Thread(target=server.obey, args=(theirs, lambda handle: None))
    obeying.start()
    try:
        command = server.END + str(stranger).encode()
        ours.send(command)
        assert ours.recv(server.MESSAGE) == command
        assert psutil.Process(stranger).status() != psutil.STATUS_ZOMBIE
    finally:
        ours.close()
        obeying.join(10)
        theirs.close()
        os.kill(stranger, signal.SIGKILL)
        os.waitpid(stranger, 0)


@pytest.mark.parametrize(
    "text",
    [
        "1" + "0" * 400,
        "-1" + "0" * 400,
        '{"reward": 1' + "0" * 400 + ', "parts": {}}',
        '{"reward": 0, "parts": {"a": 1e300}}',
        "1e200",
        str(LARGEST * 1.01),
        "NaN",
    ],
)
def test_a_number_that_drowns_all_others_is_none(text):
    assert from_json(json.loads(text)) == "not_finite"
    assert from_json(LARGEST) == LARGEST


def test_a_part_has_a_name_that_can_be_printed():
    for name in ("\x1b[31m", "a b", "", "x" * 41):
        with pytest.raises(ValueError):
            from_json({"reward": 1.0, "parts": {name: 1.0}})


def test_a_huge_number_stops_no_run(pool):
    assert checked(pool, "result = 10**400", "result = 1e300", RIGHT) == [
        "raised",
        "not_finite",
        1.0,
    ]
