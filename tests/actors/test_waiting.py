"""A wait ends: with the values, with the call's own error, with the name of who died, or with who is late."""

import os
import time

import pytest
import ray

from isentropic.actors import waiting
from isentropic.actors.ray_runtime import worker_env
from isentropic.actors.waiting import thread_stacks, wait_all
from isentropic.controller.protocols import WaitError

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    """Lets calls that hang go on, once it exists."""
    return tmp_path_factory.mktemp("waiting") / "gate"


@pytest.fixture(scope="module")
def workers(ray_session, gate):
    env = {"env_vars": worker_env(1)}

    @ray.remote(num_cpus=0, runtime_env=env, concurrency_groups={"work": 1, "health": 1})
    class Worker:
        @ray.method(concurrency_group="work")
        def run(self, what):
            if what == "die":
                os._exit(1)
            if what == "raise":
                raise ValueError("clip_low must be in (0, 1)")
            if what == "complain":
                raise RuntimeError("Connection closed by peer")
            if what == "wait in vain":
                raise RuntimeError("[gloo/transport/tcp] Timed out waiting 4000ms for recv")
            if what == "hang":
                while not gate.exists():
                    time.sleep(0.05)
            return what

        @ray.method(concurrency_group="health")
        def stacks(self):
            return thread_stacks()

    return [Worker.remote() for _ in range(2)]


def wait(loop, workers, *what, timeout_s=300.0):
    refs = [worker.run.remote(each) for worker, each in zip(workers, what, strict=True)]
    who = [f"rank {rank}" for rank in range(len(what))]
    return loop.run_until_complete(
        wait_all(refs, who=who, what="a step", timeout_s=timeout_s, actors=workers)
    )


def test_values_in_order(loop, workers):
    assert wait(loop, workers, "a", "b") == ["a", "b"]


def test_the_calls_own_error(loop, workers):
    with pytest.raises(ValueError, match=r"^clip_low must be in \(0, 1\)") as told:
        wait(loop, workers, "a", "raise")
    assert told.value.__notes__ == ["raised in rank 1 (a step)"]


@pytest.fixture
def hanging(gate, monkeypatch):
    """Ends what hangs with its test, so that the next one finds the worker free."""
    monkeypatch.setattr(waiting, "STACKS_S", 60.0)
    gate.unlink(missing_ok=True)
    yield
    gate.touch()


def test_the_late_one_is_named_with_its_stack(loop, workers, hanging):
    with pytest.raises(
        WaitError, match=r"(?s)^rank 1 did not answer within 3 s \(a step\).*time.sleep"
    ):
        wait(loop, workers, "a", "hang", timeout_s=3.0)


def test_the_one_that_hangs_is_named_and_not_who_waited_for_it(loop, workers, hanging, monkeypatch):
    monkeypatch.setattr(waiting, "LATE_DEATH_S", 0.5)
    with pytest.raises(
        WaitError, match=r"(?s)^rank 1 hangs: rank 0 waited for it in vain \(a step\).*time.sleep"
    ):
        wait(loop, workers, "wait in vain", "hang")


def test_the_dead_one_is_named_and_not_who_complains(loop, workers):
    with pytest.raises(RuntimeError, match=r"^rank 1 died \(a step\)"):
        wait(loop, workers, "complain", "die")
