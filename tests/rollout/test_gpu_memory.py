"""What vLLM is asked when an engine gives up its GPU and takes it back."""

import pytest

from isentropic.rollout.gpu_memory import GpuMemory


class Recorder:
    def __init__(self):
        self.calls = []

    def sleep(self, level):
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags):
        self.calls.append(f"wake {tags}")


@pytest.fixture
def llm():
    return Recorder()


def load(memory):
    with memory.taken_back():
        memory._llm.calls.append("load")


def test_weights_come_back_before_a_load_and_the_cache_after_it(llm):
    memory = GpuMemory(llm, shared=True)
    load(memory)
    memory.give_up()
    memory.give_up()
    load(memory)
    load(memory)
    assert llm.calls == [
        "load", "sleep 2", "wake ['weights']", "load", "wake ['kv_cache']", "load"
    ]  # fmt: skip


def test_a_load_that_fails_can_be_tried_again(llm):
    memory = GpuMemory(llm, shared=True)
    memory.give_up()
    with pytest.raises(RuntimeError), memory.taken_back():
        raise RuntimeError("a tensor is missing")
    assert memory.asleep
    load(memory)
    assert not memory.asleep


def test_an_engine_with_its_own_gpu_never_sleeps(llm):
    memory = GpuMemory(llm, shared=False)
    memory.give_up()
    load(memory)
    assert llm.calls == ["load"]
