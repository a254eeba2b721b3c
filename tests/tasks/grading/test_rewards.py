"""Checks that hang, die, raise, or give no number cost one answer each, are counted, and stall nothing."""

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

import isentropic
from isentropic.records import Prompt, Rollout, RolloutKey
from isentropic.tasks.grading.lanes import PlaceLost
from isentropic.tasks.grading.outcome import Unchecked
from isentropic.tasks.grading.rewards import Deadline, RewardError, RewardsConfig, RewardWorkers
from isentropic.tasks.prompts import Kept

PROMPT = Prompt(prompt_id="p", messages=({"role": "user", "content": "?"},), answer="1")


class LetterChat:
    """A token is the code of a character."""

    def turn_texts(self, rollout):
        return ["".join(map(chr, rollout.token_ids[start:end])) for start, end in rollout.turns]


class HostileTask:
    """The answer says what the check does."""

    max_turns = 1

    def __init__(self, isolated=True):
        self.isolated = isolated

    def grade(self, prompt, turns):
        (answer,) = turns
        match answer:
            case "hang":
                time.sleep(3600)
            case "nap":
                time.sleep(0.5)
                return 3.0
            case "spin":
                sum(1 for _ in iter(int, 1))
            case "exit":
                os._exit(3)
            case "segfault":
                ctypes.string_at(0)
            case "memory":
                return float(len(bytearray(64 * 2**30)))
            case "network":
                socket.create_connection(("127.0.0.1", 9), timeout=1)
            case "process":
                subprocess.run(["true"])
            case "write":
                open("pwned", "w").close()
            case "environment":
                return float(len(os.environ))
        return float(answer)


def rollout(answer, prompt=PROMPT):
    return Rollout(
        key=RolloutKey("train", 0, 0, 0),
        prompt=prompt,
        token_ids=np.array([0, *map(ord, answer)]),
        turns=((1, 1 + len(answer)),),
        rollout_logprob=np.zeros(len(answer), np.float32),
        temperature=1.0,
        seed=0,
        finish_reason="stop",
        step=1,
        policy_version=0,
    )


def config(**changes):
    values = {
        "workers": 2,
        "timeout_s": 0.5,
        "deadline_s": 20.0,
        "memory_gib": 2.0,
        "batch_size": 8,
        "reward_on_error": -7.0,
        "max_errors_in_a_row": None,
    }
    return RewardsConfig(**{**values, **changes})


def grade(workers, answers, prompt=PROMPT):
    return asyncio.run(workers.grade([rollout(answer, prompt) for answer in answers]))


@pytest.fixture
def make_workers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []

    def make(task, **changes):
        made.append(RewardWorkers(task, LetterChat(), config(**changes)))
        return made[-1]

    yield make
    for workers in made:
        workers.close()
    assert not list(tmp_path.iterdir())  # no check wrote a file


@pytest.mark.parametrize(
    ("cpus", "workers", "lanes"),
    [
        pytest.param(16, None, 8, id="half of the CPUs"),
        pytest.param(1, None, 2, id="two at least: one may hang"),
        pytest.param(16, 3, 3, id="as many as were asked for"),
    ],
)
def test_as_many_checks_run_at_a_time_as_the_node_can_make(
    make_workers, monkeypatch, cpus, workers, lanes
):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cpus)))
    graders, running, most = make_workers(HostileTask(), workers=workers, batch_size=1), 0, 0

    async def check(batch, timeout_s):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return [1.0] * len(batch)

    graders._pool.check = check
    assert grade(graders, ["1"] * 20) == [1.0] * 20
    assert most == lanes

    async def as_they_finish():
        return await asyncio.gather(*(graders.grade([rollout("1")]) for _ in range(20)))

    assert asyncio.run(as_they_finish()) == [[1.0]] * 20
    assert most == lanes, "no more than that over all calls"


def test_a_call_that_waits_for_others_in_vain_is_late(make_workers):
    """One lane; a check that hangs longer than the second call may take."""
    graders = make_workers(HostileTask(), workers=1, batch_size=1, timeout_s=0.5, deadline_s=0.5)
    release = asyncio.Event()

    async def check(batch, timeout_s):
        await release.wait()
        return [1.0] * len(batch)

    graders._pool.check = check

    async def go():
        first = asyncio.create_task(graders.check([(PROMPT, ("1",), False)]))
        await asyncio.sleep(0)
        (second,) = await graders.check([(PROMPT, ("1",), False)])
        release.set()
        return second, await first

    second, first = asyncio.run(go())
    assert (second, first) == ("timed_out", [1.0])
    assert "rewards.deadline_s" in second.reason


def test_no_check_is_begun_that_the_deadline_would_cut_off(make_workers):
    """Calls come faster than one lane serves them: those that are made have their whole time."""
    graders = make_workers(HostileTask(), workers=1, batch_size=1, timeout_s=0.6, deadline_s=1.8)
    limits = []

    async def check(batch, timeout_s):
        limits.append(timeout_s)
        await asyncio.sleep(0.1)
        return [1.0] * len(batch)

    graders._pool.check = check

    async def go():
        calls = [graders.check([(PROMPT, ("1",), False)]) for _ in range(40)]
        return [outcome for (outcome,) in await asyncio.gather(*calls)]

    outcomes = asyncio.run(go())
    assert outcomes.count(1.0) == len(limits)
    assert outcomes.count("timed_out") == 40 - len(limits) > 0
    assert min(limits) > 0.3


def test_the_right_answer_is_checked_before_those_that_wait_for_a_lane(make_workers):
    """All lanes are taken by what hangs: the task is not at fault."""
    graders = make_workers(
        HostileTask(), workers=1, batch_size=1, timeout_s=0.2, deadline_s=0.2, max_errors_in_a_row=3
    )
    lane = asyncio.Event()

    async def check(batch, timeout_s):
        if batch[0][1] == ("hang",):
            await lane.wait()
        return [1.0] * len(batch)

    graders._pool.check = check

    async def go():
        hangs = asyncio.create_task(graders.check([(PROMPT, ("hang",), False)]))
        await asyncio.sleep(0)
        rewards = await graders.grade([rollout("1")] * 5)
        lane.set()
        await hangs
        return rewards

    assert asyncio.run(go()) == [-7.0] * 5
    assert graders.counts()["timed_out"] == 5


class Elsewhere:
    """Another place, which pays 5; after so many checks it is frozen for a while, and then lost."""

    def __init__(self, lanes=2, lost_after=None, frozen_s=0.0):
        self.lanes, self.lost_after, self.frozen_s, self.checked = lanes, lost_after, frozen_s, 0

    async def check(self, batch, timeout_s):
        await asyncio.sleep(0)
        if self.checked == self.lost_after:
            await asyncio.sleep(self.frozen_s)
            raise PlaceLost("node b is gone.")
        self.checked += 1
        return [5.0] * len(batch)

    def close(self): ...


def test_checks_are_spread_over_places(make_workers):
    graders, other = make_workers(HostileTask(), workers=2, batch_size=1), Elsewhere()
    graders.spread([other])
    rewards = grade(graders, ["1"] * 20)
    assert rewards.count(5.0) == other.checked > 2
    assert rewards.count(1.0) == 20 - other.checked >= 2


def test_what_a_lost_place_had_is_checked_by_the_rest(make_workers):
    said = []
    graders = make_workers(HostileTask(), workers=2, batch_size=1)
    graders._warn = said.append
    graders.spread([Elsewhere(lanes=3, lost_after=4)])
    rewards = grade(graders, ["1"] * 20)
    assert (rewards.count(5.0), rewards.count(1.0)) == (4, 16)
    assert said == ["node b is gone. Its checks are made by the rest."]
    assert grade(graders, ["2"] * 3) == [2.0] * 3


def test_no_answer_pays_for_a_place_that_froze_beyond_the_deadline(make_workers):
    graders = make_workers(HostileTask(), workers=2, batch_size=1, timeout_s=20.0, deadline_s=60.0)
    grade(graders, ["1"])  # the workers have started
    graders._config = replace(graders._config, timeout_s=2.0, deadline_s=4.0)
    graders.spread([Elsewhere(lanes=3, lost_after=0, frozen_s=5.0)])
    assert grade(graders, ["1"] * 8) == [1.0] * 8
    assert graders.counts()["timed_out"] == 0


def test_a_batch_that_a_place_lost_is_checked_again_one_by_one_in_its_time(make_workers):
    graders = make_workers(HostileTask(), workers=2, batch_size=2, timeout_s=20.0, deadline_s=60.0)
    grade(graders, ["1", "2"])  # the workers have started
    graders._config = replace(graders._config, timeout_s=2.0, deadline_s=6.0)
    graders.spread([Elsewhere(lanes=3, lost_after=0, frozen_s=6.5)])
    assert grade(graders, ["1", "hang", "2", "3", "4", "5", "6", "7", "8", "9"]) == [
        1.0, -7.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0,
    ]  # fmt: skip


def test_the_time_of_a_frozen_place_is_left_out_once_however_many_wait_for_it():
    deadline = Deadline(10.0)
    since = time.monotonic()
    time.sleep(0.2)
    for _ in range(5):
        deadline.leave_out(since)
    assert 9.9 < deadline.left < 10.1


class CutTask(HostileTask):
    def grade_truncated(self, prompt, turns):
        return 0.25


@pytest.mark.parametrize("isolated", [True, False])
def test_a_response_that_was_cut_off_is_graded_as_such(make_workers, isolated):
    cut = replace(rollout("1"), finish_reason="length")

    def graded(task):
        # Workers must start on a busy machine.
        workers = make_workers(task, timeout_s=20.0, deadline_s=60.0)
        return asyncio.run(workers.grade([rollout("1"), cut]))

    assert graded(CutTask(isolated)) == [1.0, 0.25]
    if not isolated:
        assert graded(HostileTask(isolated)) == [1.0, 1.0]
        assert graded(Kept(CutTask(isolated), {})) == [1.0, 0.25]
        assert graded(Kept(HostileTask(isolated), {})) == [1.0, 1.0]


def test_each_fault_costs_its_own_answer_alone_and_is_counted_by_kind(make_workers, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "canary")
    workers = make_workers(HostileTask())
    answers = [
        "1",
        "hang",
        "0.5",
        "exit",
        "nan",
        "2",
        "segfault",
        "memory",
        "word",
        "spin",
        "inf",
        "3",
    ]
    bad = -7.0
    expected = [1, bad, 0.5, bad, bad, 2, bad, bad, bad, bad, bad, 3]
    started = time.monotonic()
    assert grade(workers, answers) == expected
    assert time.monotonic() - started < 20  # of two hours that the hangs asked for
    assert workers.counts() == {"timed_out": 2, "crashed": 2, "raised": 2, "not_finite": 2}
    assert grade(workers, ["environment", "4"]) == [
        0.0,
        4.0,
    ]  # the workers are back, and know nothing
    assert grade(workers, ["network", "process", "write", "5"]) == [bad, bad, bad, 5.0]


def test_a_lost_server_is_replaced(make_workers):
    workers = make_workers(HostileTask(), batch_size=1)
    assert grade(workers, ["1", "2"]) == [1.0, 2.0]
    (server,) = [
        process
        for process in psutil.Process().children()
        if "isentropic.tasks.grading.server" in process.cmdline()
    ]
    server.kill()
    server.wait()
    assert grade(workers, ["hang", "1", "2", "3"]) == [-7.0, 1.0, 2.0, 3.0]


def test_nothing_is_left_running_or_lying_about(make_workers, tmp_path_factory, monkeypatch):
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    others = set(psutil.Process().children(recursive=True))  # a session's Ray, for example
    workers = make_workers(HostileTask(), batch_size=1)
    grade(workers, ["1", "2"])
    processes = set(psutil.Process().children(recursive=True)) - others
    assert [path.name.startswith("isentropic-checks-") for path in temporary.iterdir()] == [True]
    workers.close()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert len(processes) >= 2 and not alive
    assert not list(temporary.iterdir())


DRIVER = """
import asyncio, os, signal, sys
sys.path[:0] = [{folder!r}, {source!r}]
import psutil
from test_rewards import HostileTask, LetterChat, RewardWorkers, config, rollout

workers = RewardWorkers(HostileTask(), LetterChat(), config(timeout_s=20.0, batch_size=1))

async def step():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)
    await workers.grade([rollout("1")])
    grading = asyncio.create_task(workers.grade([rollout("nap"), rollout("2")]))
    await asyncio.sleep(0.2)
    os.killpg(0, signal.SIGTERM)
    print(*[each.pid for each in psutil.Process().children(recursive=True)])
    print(await grading, flush=True)

asyncio.run(step())
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_signal_to_the_drivers_group_spares_the_workers_but_they_die_with_the_driver():
    """`timeout` and batch systems signal the group, while the step under way is graded."""
    source = Path(isentropic.__file__).parents[1]
    code = DRIVER.format(folder=str(Path(__file__).parent), source=str(source))
    driver = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
    )
    assert driver.returncode == -signal.SIGKILL, driver.stderr
    pids, rewards = driver.stdout.splitlines()
    assert rewards == "[3.0, 2.0]"
    assert len(pids.split()) >= 3  # a server and two workers
    left = [psutil.Process(int(pid)) for pid in pids.split() if psutil.pid_exists(int(pid))]
    _, alive = psutil.wait_procs(left, timeout=10)
    assert not alive


class Unloadable:
    """Cannot be made again from its pickle."""

    isolated = True
    max_turns = 1

    def __reduce__(self):
        return int, ("not a task",)


def test_a_task_that_cannot_be_loaded_says_so(make_workers):
    with pytest.raises(RewardError, match=r"cannot be loaded(.|\n)*invalid literal for int"):
        grade(make_workers(Unloadable()), ["1"])


def test_what_the_checks_are_walled_by_is_said_once(tmp_path):
    said = []
    workers = RewardWorkers(HostileTask(), LetterChat(), config(), say=said.append)
    try:
        assert grade(workers, ["1", "exit", "2"]) == [1.0, -7.0, 2.0]
    finally:
        workers.close()
    assert len(said) == 1 and said[0].startswith("reward checks are walled by limits")


def test_a_deadline_bounds_a_step_in_which_everything_hangs(make_workers):
    workers = make_workers(HostileTask(), deadline_s=1.2, batch_size=1)
    assert grade(workers, ["hang"] * 40) == [-7.0] * 40
    assert workers.counts()["timed_out"] == 40
    assert grade(workers, ["1"]) == [1.0]


def test_what_the_deadline_cuts_off_is_not_said_to_have_taken_too_long(make_workers):
    """Its own check was never made: another timeout_s would change nothing."""
    workers = make_workers(HostileTask(), workers=1, timeout_s=0.2, deadline_s=1.0, batch_size=1)

    async def check(batch, timeout_s):
        await asyncio.sleep(timeout_s)
        return ["timed_out"] * len(batch)

    workers._pool.check = check
    outcomes = asyncio.run(workers.check([(PROMPT, ("hang",))] * 8))
    assert outcomes == ["timed_out"] * 8
    first, last = workers.why(outcomes[0]), workers.why(outcomes[-1])
    assert first == "it gave no answer within rewards.timeout_s=0.2"
    assert last.startswith("the 1 s of rewards.deadline_s, for all answers graded together, were")


def test_trusted_tasks_are_graded_here_with_the_same_care(make_workers):
    workers = make_workers(HostileTask(isolated=False))
    rewards = grade(workers, ["1", "word", "nan"])
    assert rewards == [1.0, -7.0, -7.0]
    assert [isinstance(reward, Unchecked) for reward in rewards] == [False, True, True]
    assert workers.counts() == {"timed_out": 0, "crashed": 0, "raised": 1, "not_finite": 1}


@pytest.mark.parametrize("isolated", [True, False])
def test_a_task_that_fails_for_the_right_answer_too_stops_the_run(make_workers, isolated):
    workers = make_workers(HostileTask(isolated), max_errors_in_a_row=3)
    broken = replace(PROMPT, answer="word")
    assert grade(workers, ["word", "word", "word", "1", "word", "word"], broken)[3] == 1.0
    with pytest.raises(
        RewardError, match=r"4 answers in a row failed(.|\n)*'word' of prompt p: raised"
    ):
        grade(workers, ["word", "word"], broken)


class TaggedTask(HostileTask):
    """Wants its answer in tags, and raises on every answer that it finds there."""

    def grade(self, prompt, turns):
        if not turns[-1].startswith("<answer>"):
            return 0.0
        raise ValueError("the scorer is broken")


def test_a_broken_check_behind_tags_stops_the_run(make_workers):
    """A bare right answer is paid nothing before the scorer is asked: tags reach its fault."""
    workers = make_workers(TaggedTask(isolated=False), max_errors_in_a_row=3)
    with pytest.raises(RewardError, match="4 answers in a row failed"):
        grade(workers, ["<answer>1</answer>"] * 5)


def test_checks_that_raise_on_what_a_model_wrote_stop_nothing(make_workers):
    """A hundred in a row: the right answer is checked in between, and is fine."""
    workers = make_workers(HostileTask(), max_errors_in_a_row=3)
    assert grade(workers, ["word"] * 100) == [-7.0] * 100
    assert workers.counts()["raised"] == 100


@pytest.mark.parametrize(
    "change",
    [
        {"workers": 0},
        {"workers": 1025},
        {"timeout_s": 0},
        {"timeout_s": 0.001},
        {"deadline_s": 0.1},
        {"memory_gib": 0.05},
        {"reward_on_error": np.nan},
    ],
)
def test_refuses(change):
    with pytest.raises(ValueError, match=f"rewards.{next(iter(change))}"):
        config(**change)
