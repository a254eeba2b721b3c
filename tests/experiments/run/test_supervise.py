"""New ranks for lost ones, within a budget; a stop that comes meanwhile is still a stop."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from isentropic.controller.protocols import LearnerLost
from isentropic.experiments.run.assemble import _drive
from isentropic.experiments.run.stopping import Stopping
from isentropic.experiments.run.supervise import supervise


class Actors:
    restarts = 0

    async def restart_learner(self):
        self.restarts += 1


class Attempt:
    """A controller that loses its learner, or runs to its end."""

    stopped = None

    def __init__(self, lost):
        self._lost = lost

    def request_stop(self, reason):
        self.stopped = reason

    async def run(self, start):
        self.start = start
        if self._lost:
            raise LearnerLost("learner rank 1 died (updates of step 3)")


def run(lost_attempts, max_restarts, reason=None, attempt=Attempt):
    actors, said, attempts = Actors(), [], []
    stopping = Stopping(60.0)
    stopping.reason = reason

    def make(start):
        attempts.append(attempt(len(attempts) < lost_attempts))
        return attempts[-1]

    going = supervise(
        actors,
        make,
        "start",
        lambda: "newest",
        max_restarts=max_restarts,
        stopping=stopping,
        say=said.append,
    )
    return asyncio.run(going), actors, said, attempts


def test_goes_on_from_the_newest_checkpoint():
    stopped, actors, said, attempts = run(lost_attempts=2, max_restarts=2)
    assert stopped is None and actors.restarts == 2
    assert [attempt.start for attempt in attempts] == ["start", "newest", "newest"]
    assert "rank 1 died" in said[0] and "(2 of 2)" in said[1]


def test_the_budget_ends_the_run():
    with pytest.raises(RuntimeError, match=r"cluster\.max_learner_restarts=1.*resume=auto"):
        run(lost_attempts=2, max_restarts=1)


def test_a_stop_asked_for_before_is_kept():
    assert run(lost_attempts=1, max_restarts=3, reason="SIGTERM")[0] == "SIGTERM"
    assert run(lost_attempts=0, max_restarts=3, reason="SIGTERM")[0] == "SIGTERM"


def test_a_stop_by_an_alarm_is_kept_if_the_learner_dies_after_it():
    """The alarm counts as raised in the checkpoint that a new start would begin from."""

    class Alarmed(Attempt):
        async def run(self, start):
            self.request_stop("held out: too low")
            await super().run(start)

    stopped, actors, *_ = run(lost_attempts=1, max_restarts=3, attempt=Alarmed)
    assert (stopped, actors.restarts) == ("held out: too low", 0)


async def stopped_by(*signals, within_s=60.0, ray_answers=True):
    """What becomes of a controller in the middle of a long step."""
    with Stopping(within_s, ray_answers=lambda: ray_answers) as stopping:
        attempt = Attempt(lost=False)
        stopping.watch(attempt)
        try:
            for number in signals:
                os.kill(os.getpid(), number)
                await asyncio.sleep(0.05)
            await asyncio.sleep(1.0 if within_s < 1 or not ray_answers else 0)
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()
            return "given up" if stopping.overdue else "quit"
        return attempt.stopped


@pytest.mark.parametrize(
    ("signals", "within_s", "outcome"),
    [
        ((signal.SIGTERM,), 60.0, "SIGTERM"),
        ((signal.SIGINT,), 60.0, "SIGINT"),
        ((signal.SIGTERM, signal.SIGTERM), 60.0, "SIGTERM"),
        ((signal.SIGTERM,), 0.2, "given up"),
    ],
)
def test_signals(signals, within_s, outcome):
    assert asyncio.run(stopped_by(*signals, within_s=within_s)) == outcome


def test_a_signal_that_ended_ray_too_is_not_waited_for():
    assert asyncio.run(stopped_by(signal.SIGTERM, ray_answers=False)) == "given up"


async def signalled_after_the_end(number):
    with Stopping(60.0) as stopping:
        stopping.watch(Attempt(lost=False))
        stopping.over()
        os.kill(os.getpid(), number)
        await asyncio.sleep(0.05)
        return "report written"


def test_sigterm_after_the_end_does_not_cut_off_the_report():
    assert asyncio.run(signalled_after_the_end(signal.SIGTERM)) == "report written"
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(signalled_after_the_end(signal.SIGINT))


def test_ctrl_c_twice_quits():
    assert asyncio.run(stopped_by(signal.SIGINT, signal.SIGINT)) == "quit"


@pytest.mark.parametrize(("code", "answer"), [(15, "SIGTERM"), (1, SystemExit)])
def test_sigterm_in_the_middle_of_ray_init(code, answer):
    """Ray's own handler takes it and exits with 15: for us it is a stop that one can go on from."""

    @asynccontextmanager
    async def lend(config, prepared):
        raise SystemExit(code)
        yield

    assembly = SimpleNamespace(config=None, prepared=None, terminal=None)
    drive = _drive(assembly, None, lend, Stopping(1.0))
    if answer is SystemExit:
        with pytest.raises(SystemExit):
            asyncio.run(drive)
    else:
        assert asyncio.run(drive) == answer
