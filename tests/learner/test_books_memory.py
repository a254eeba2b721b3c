"""What the books hold, counted on tensors without memory that say they lie on a GPU."""

import weakref

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from isentropic.learner.books.update import AT_WORK, ON_DEVICE, ON_HOST, Books

SIZE = 100_000
SHARE = 4 * SIZE


class Counter(TorchDispatchMode):
    """Adds up the living storages by device, and keeps the highest since `reset`."""

    def __init__(self):
        super().__init__()
        self.living, self.now, self.peak = {}, {"cpu": 0, "cuda": 0}, {"cpu": 0, "cuda": 0}

    def reset(self):
        self.peak = dict(self.now)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.device.type in self.now:
                self._add(tensor.untyped_storage(), tensor.device.type)
        return result

    def _add(self, storage, device):
        key = storage._cdata
        if key in self.living:
            return
        size = storage.nbytes()
        self.living[key] = weakref.finalize(storage, self._drop, key, device, size)
        self.now[device] += size
        self.peak[device] = max(self.peak[device], self.now[device])

    def _drop(self, key, device, size):
        del self.living[key]
        self.now[device] -= size


@pytest.fixture
def numbers(monkeypatch):
    """Fake tensors have no values: whoever asks gets ones, and copies want a real GPU."""
    monkeypatch.setattr(FakeTensor, "copy_", lambda tensor, other: tensor, raising=False)
    monkeypatch.setattr(FakeTensor, "__float__", lambda tensor: 1.0, raising=False)
    monkeypatch.setattr(FakeTensor, "tolist", lambda tensor: [1.0] * tensor.numel(), raising=False)
    monkeypatch.setattr(FakeTensor, "numpy", lambda tensor: np.ones(tensor.shape), raising=False)


@pytest.mark.parametrize(
    ("shards", "at_work"),
    [
        pytest.param(100, 0, id="many shards: what is made for one of them is a hundredth"),
        pytest.param(1, AT_WORK, id="a single one"),
    ],
)
def test_copies_at_the_peak(numbers, shards, at_work):
    """Weights, two moments, and while the tokens are scored two copies more; the rest on the host."""
    scoring, counter = [], Counter()
    with FakeTensorMode(), counter:
        weights = [
            torch.nn.Parameter(torch.empty(SIZE // shards, device="cuda")) for _ in range(shards)
        ]
        optimizer = torch.optim.AdamW(weights, fused=True)

        def backward():
            for weight in weights:
                weight.grad = torch.empty_like(weight)

        def measure():
            backward()
            return 1.0

        def score(microbatches):
            scoring.append(dict(counter.now))
            return torch.empty(5, device="cuda"), torch.empty(5, device="cuda")

        backward()
        optimizer.step()
        books = Books(optimizer, measure, score)
        for _ in range(2):
            optimizer.zero_grad()
            backward()
            books.before(1.0, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            counter.reset()
            books.after([])

    shares = {device: size / SHARE for device, size in counter.peak.items()}
    assert shares["cuda"] == pytest.approx(3 + ON_DEVICE + at_work, abs=0.15)
    assert shares["cpu"] == pytest.approx(ON_HOST, abs=0.15)
    assert {round(each["cuda"] / SHARE, 1) for each in scoring} == {3.0 + ON_DEVICE}
