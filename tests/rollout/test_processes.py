"""An engine over several devices ends with the first of its processes that ends."""

import threading
from types import SimpleNamespace

import pytest

from isentropic.rollout import processes
from isentropic.rollout.processes import Processes


class Executor:
    """vLLM's, as far as the loss of a process goes."""

    def __init__(self, is_failed=False):
        self.is_failed = is_failed

    def register_failure_callback(self, callback):
        self.callback = callback

    def lose_one(self):
        self.is_failed = True
        self.callback()


@pytest.fixture
def ended(monkeypatch):
    monkeypatch.setattr(processes, "SETTLE_S", 0.2)
    return []


def watch(executor, ended):
    return Processes(executor, end=lambda: ended.append("end"))


def test_an_idle_engine_ends_when_it_loses_one(ended):
    executor = Executor()
    watch(executor, ended)
    assert not ended
    executor.lose_one()
    assert ended == ["end"]


@pytest.mark.parametrize("message", ["cancelled", "Executor failed."])
def test_a_call_that_failed_for_it_is_not_answered_with_an_error(ended, message):
    """What vLLM raises may come before it has seen the death."""
    executor = Executor()
    watched = watch(executor, ended)
    with pytest.raises(RuntimeError), watched.needed():
        threading.Timer(0.05, lambda: setattr(executor, "is_failed", True)).start()
        raise RuntimeError(message)
    assert ended == ["end"]


def test_other_errors_are_errors(ended):
    for executor in (Executor(), None):
        with pytest.raises(ValueError, match="no shape"), watch(executor, ended).needed():
            raise ValueError("no shape")
    assert not ended


def test_the_process_ends_as_a_crash_does(monkeypatch):
    """Code 0, or Ray's own exit of an actor, would be taken for a wish not to come back."""
    codes = []
    monkeypatch.setattr(processes, "os", SimpleNamespace(_exit=codes.append))
    processes.end_this_process()
    assert codes == [1]
