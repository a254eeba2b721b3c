"""A rank whose state was on the host goes on as one whose state never left, bit for bit."""

import importlib.util
from pathlib import Path

import pytest
import torch

from isentropic.learner import learner as learner_module
from isentropic.shared_gpu.offload import Offload, state_tensors
from isentropic.weights.buckets import fill_buckets

SCRIPT = Path(__file__).resolve().parents[1] / "learner" / "ranks.py"
spec = importlib.util.spec_from_file_location("ranks_of_offload", SCRIPT)
ranks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ranks)


@pytest.fixture
def make_learner(tmp_path):
    ranks.make_model(tmp_path / "model")
    made = []

    def make():
        while made:
            made.pop().close()
        made.append(ranks.make_learner(tmp_path / "model", reference=True))
        return made[-1]

    yield make
    while made:
        made.pop().close()


def state_of(learner):
    return state_tensors([learner._model, learner._reference], learner._optimizer)


def held_bytes(tensors):
    local = [getattr(tensor, "_local_tensor", tensor).detach() for tensor in tensors]
    return sum(tensor.untyped_storage().nbytes() for tensor in local)


def test_everything_leaves_and_comes_back(make_learner, tmp_path):
    """The tensors of a rank; `Learner.offload` itself moves them only on a GPU."""
    batch = ranks.step_batches(ranks.make_samples(), 1, 10_000)[0]
    found = {}
    for moved in (False, True):
        learner = make_learner()
        offload = Offload()
        for _ in range(2):
            learner.update(batch)
            if moved:
                held = held_bytes(state_of(learner))
                offload.leave(state_of(learner))
                assert held > 0 and held_bytes(state_of(learner)) == 0
                offload.come_back()
                assert held_bytes(state_of(learner)) == held
            scores = learner.score([batch.updates[0][0]], reference=True)
        learner.save(tmp_path / str(moved))
        weights = {name: tensor.clone() for name, tensor in learner.named_weights()}
        found[moved] = weights, scores[0].logprob, scores[0].ref_logprob
    kept, gone = found[False], found[True]
    assert all(torch.equal(kept[0][name], gone[0][name]) for name in kept[0])
    assert (kept[1] == gone[1]).all() and (kept[2] == gone[2]).all()


def test_on_a_cpu_the_state_stays_after_a_publish_too(make_learner):
    """Published weights share memory with the rank's own there, which cannot be freed then."""
    learner = make_learner()
    held = held_bytes(state_of(learner))
    list(fill_buckets(learner.named_weights(), torch.float32))
    learner.offload()
    assert held_bytes(state_of(learner)) == held
    learner.restore()


def test_shared_memory_moves_once_and_buffers_are_used_again():
    whole = torch.arange(6.0)
    offload = Offload()
    for _ in range(2):
        offload.leave([whole, whole[2:], torch.empty(0)])
        buffers = [copy.data_ptr() for copy in offload._copies]
        assert len(buffers) == 1
        offload.come_back()
        assert whole.tolist() == [0, 1, 2, 3, 4, 5]
        whole += 0  # in place: it is the same tensor
    assert [copy.data_ptr() for copy in offload._copies] == buffers


def test_weights_are_gathered_while_the_state_is_away(make_learner, monkeypatch):
    """Group by group, the same bits as before; one leaves the device as the next one comes."""
    learner = make_learner()
    before = {name: tensor.clone() for name, tensor in learner.named_weights()}
    state = state_of(learner)
    largest = max(held_bytes([parameter]) for parameter in learner._model.parameters())
    monkeypatch.setattr(learner_module, "TOGETHER_BYTES", largest)
    learner._offload.leave(state)
    for name, tensor in learner.named_weights():
        assert torch.equal(tensor, before.pop(name)), name
        held = held_bytes(
            state
        )  # by name: pytest would show tensors that have no memory, and crash
        assert 0 < held <= largest
    held = held_bytes(state)
    assert before == {} and held == 0
    learner._offload.come_back()
    held = held_bytes(state)
    assert held > 0


def test_a_visit_ends_after_an_error_too():
    whole = torch.arange(6.0)
    part = whole[2:]
    offload = Offload()
    with offload.visit([whole]):
        pass  # nothing has left
    offload.leave([whole, torch.ones(3)])
    with pytest.raises(RuntimeError, match="in the middle"), offload.visit([part]):
        assert whole.tolist() == [0, 1, 2, 3, 4, 5]
        raise RuntimeError("in the middle")
    held = held_bytes([whole])
    assert held == 0
    offload.come_back()
    assert whole.tolist() == [0, 1, 2, 3, 4, 5]


def test_it_cannot_leave_twice():
    offload = Offload()
    offload.come_back()
    offload.leave([torch.ones(1)])
    with pytest.raises(AssertionError, match="on the host already"):
        offload.leave([torch.ones(1)])
