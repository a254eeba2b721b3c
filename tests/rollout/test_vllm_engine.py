"""What the engine does with vLLM's answers and failures, without vLLM."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from isentropic.records import Request, RolloutKey
from isentropic.rollout.processes import Processes
from isentropic.rollout.vllm_engine import VllmEngine, _Call

REQUEST = Request(
    key=RolloutKey("train", 3, 1, 2),
    turn=0,
    token_ids=np.array([1, 2, 3]),
    seed=5,
    temperature=1.0,
    max_tokens=4,
)


class Core:
    """vLLM's engine with one answer, or one failure."""

    def __init__(self, answer):
        self.answer = answer

    def step(self):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return [self.answer]

    def abort_request(self, names):
        pass


def engine_of(answer, processes=None):
    """An engine that waits for REQUEST, without its constructor: that loads a model."""
    engine = object.__new__(VllmEngine)
    engine._core = Core(answer)
    engine._processes = processes or Processes(None)
    engine._admitting, engine._stepping = threading.Lock(), threading.Lock()
    engine.steps = engine.tokens = engine.policy_version = 0
    call = _Call(waiting={"0": REQUEST})
    engine._calls = {"0": call}
    return engine, call


def answer(*logprobs):
    sampled = SimpleNamespace(
        token_ids=list(range(len(logprobs))),
        finish_reason="stop",
        logprobs=SimpleNamespace(logprobs=list(logprobs)),
    )
    return SimpleNamespace(request_id="0", outputs=[sampled])


def test_an_answer_reaches_its_call():
    engine, call = engine_of(answer(-0.5, -1.5))
    engine._advance(call)
    (done,) = call.take()
    assert done.logprob.tolist() == [-0.5, -1.5] and not call.waiting


@pytest.mark.parametrize("wrong", [float("nan"), float("-inf")])
def test_an_answer_without_numbers_is_refused(wrong):
    """Else it would be trained on, and the ledger that holds it could not be read on a resume."""
    engine, call = engine_of(answer(-0.5, wrong))
    message = rf"request \('train', 3, 1, 2\), turn 0: the engine gave the logprob {wrong} for token 1 of 2"
    with pytest.raises(RuntimeError, match=message):
        engine._advance(call)
    assert not call.done


def test_a_step_that_fails_for_a_lost_process_ends_the_engine(monkeypatch):
    """The pool starts an engine again whose process has ended, not one that raises."""
    ended = []
    executor = SimpleNamespace(is_failed=True, register_failure_callback=lambda call: None)
    lost = Processes(executor, end=lambda: ended.append("end"))
    engine, call = engine_of(RuntimeError("cancelled"), processes=lost)
    with pytest.raises(RuntimeError, match="cancelled"):
        engine._advance(call)
    assert ended == ["end"]
