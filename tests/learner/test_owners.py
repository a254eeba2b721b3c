"""Whose momentum it was: the classes' buffers add up to AdamW's, and their parts to the trapezoid."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from isentropic.learner.books import Books, Owners
from isentropic.learner.learner import _LeafLoss

SCRIPT = Path(__file__).with_name("ranks.py")
spec = importlib.util.spec_from_file_location("ranks", SCRIPT)
ranks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ranks)

# Large steps: small ones are rounded when the weights take them.
SETTINGS = ranks.BOOKS | {"lr": 0.1}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("owners") / "model"
    ranks.make_model(folder)
    return folder


@pytest.fixture
def make_learner(model):
    made = []

    def make(**settings):
        while made:
            made.pop().close()
        made.append(ranks.make_learner(model, **(SETTINGS | settings)))
        return made[-1]

    yield make
    while made:
        made.pop().close()


def gaps(books):
    """(owners + decay - trapezoid) over the sum of their sizes, by each way to sort the tokens."""
    found = []
    for way in ranks.CLASSES:
        parts = [part for owner, part in books.owned.items() if owner.startswith(f"{way}/")]
        parts += [books.owned["before"], books.decay]
        found.append(abs(sum(parts) - books.trapezoid) / sum(map(abs, parts)))
    return found


def test_owners_and_decay_are_the_trapezoid(make_learner):
    learner = make_learner()
    for step in ranks.classed_steps(learner, count=3):
        for update in learner.update(step).updates:
            assert max(gaps(update.books)) < 1e-6
    assert len(update.books.owned) == 1 + sum(map(len, ranks.CLASSES.values()))


def test_nothing_was_before_a_start(make_learner):
    """From the first update on the classes own it all; later followers find momentum there."""
    learner = make_learner()
    first, second = ranks.classed_steps(learner, count=2)
    for update in learner.update(first).updates:
        assert update.books.owned["before"] == 0

    learner = make_learner()
    first, second = ranks.classed_steps(learner, count=2)
    learner.update(replace(first, classes={}))
    shares = [update.books.owned["before"] for update in learner.update(second).updates]
    assert all(shares)


def test_the_buffers_add_up_to_the_momentum(make_learner):
    learner = make_learner()
    first, second = ranks.classed_steps(learner, count=2)
    learner.update(replace(first, classes={}))
    learner.update(second)
    states = learner._optimizer.state.values()
    momentum = torch.cat([state["exp_avg"].full_tensor().flatten() for state in states])
    for way in ranks.CLASSES:
        buffers = [
            torch.cat([shard.flatten() for shard in shards])
            for owner, shards in learner._owners._buffers.items()
            if owner == "before" or owner.startswith(f"{way}/")
        ]
        torch.testing.assert_close(sum(buffers).float(), momentum, rtol=1e-4, atol=1e-9)


def test_training_has_the_same_bits(make_learner):
    weights = []
    for followed in (True, False):
        learner = make_learner()
        for step in ranks.classed_steps(learner, count=2):
            learner.update(step if followed else replace(step, contexts=(), classes={}))
        weights.append(ranks.weights_of(learner))
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_owners_begin_again_after_a_load(make_learner, tmp_path):
    learner = make_learner()
    first, second = ranks.classed_steps(learner, count=2)
    learner.update(first)
    learner.save(tmp_path / "state")
    learner.load(tmp_path / "state")
    update = learner.update(second).updates[0]
    assert update.books.owned["before"] != 0


def test_an_update_that_was_not_followed_is_found(make_learner):
    learner = make_learner()
    first, second = ranks.classed_steps(learner, count=2)
    learner.update(first)
    learner.update(replace(first, classes={}))
    with pytest.raises(AssertionError, match="followed to version 2, the weights are of version 4"):
        learner.update(second)


def test_a_wrong_sign_for_one_class_shows(make_learner, monkeypatch):
    """The sum of the owners leaves the trapezoid by far more than the rounding."""
    only = _LeafLoss.only

    def planted(leaves, chosen):
        part = only(leaves, chosen)
        if all(torch.equal(one, first == 0) for one, first in zip(chosen, wrong, strict=True)):
            part._gradients = [(-push, rest) for push, rest in part._gradients]
        return part

    monkeypatch.setattr(_LeafLoss, "only", planted)
    learner = make_learner()
    (step,) = ranks.classed_steps(learner, count=1)
    for index, microbatches in enumerate(step.updates):
        wrong = [torch.as_tensor(batch.fields["class/third"]) for batch in microbatches]
        one = replace(step, updates=(step.updates[index],))
        (update,) = learner.update(one).updates
        third, sign = gaps(update.books)
        assert third > 0.05
        assert sign < 1e-6


def test_closed_form_in_float64():
    """H = h.theta, loss gradients of two classes, AdamW in float64: each part by the formulas."""
    h = torch.tensor([0.3, -0.7, 0.2], dtype=torch.float64)
    gradients = {"one/a": torch.tensor([1.0, 2.0, -1.0]), "one/b": torch.tensor([-0.5, 1.0, 3.0])}
    gradients = {owner: gradient.double() for owner, gradient in gradients.items()}
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    rate, b1, b2, eps = 0.1, 0.9, 0.99, 1e-6
    optimizer = torch.optim.AdamW([theta], lr=rate, betas=(b1, b2), eps=eps, weight_decay=0.0)
    first = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64)
    optimizer.state[theta] = {
        "step": torch.tensor(5.0),
        "exp_avg": first.clone(),
        "exp_avg_sq": torch.ones(3, dtype=torch.float64),
    }

    def measure():
        entropy = h @ theta
        entropy.backward()
        return float(entropy.detach())

    def score(microbatches):
        return torch.zeros(1), torch.zeros(1)

    books = Books(optimizer, measure, score)
    owners = Owners(optimizer, policy_version=5)
    total = sum(gradients.values())
    theta.grad = total.clone()
    books.before(grad_norm=0.0, max_norm=1.0)
    owners.decay()
    for owner, gradient in gradients.items():
        owners.add(owner, [gradient], scale=1.0)
    optimizer.step()
    found = books.after([], owners)

    second = b2 * 1.0 + (1 - b2) * total**2
    denominator = (1 - b1**6) * ((second / (1 - b2**6)).sqrt() + eps)
    for owner, gradient in gradients.items():
        part = -rate * float((h / denominator * (1 - b1) * gradient).sum())
        assert found.owned[owner] == pytest.approx(part, rel=1e-12)
    before = -rate * float((h / denominator * b1 * first).sum())
    assert found.owned["before"] == pytest.approx(before, rel=1e-12)
    assert sum(found.owned.values()) == pytest.approx(found.trapezoid, rel=1e-9)
    assert math.isfinite(found.now) and np.isfinite(found.momentum)


def test_only_adamw_has_books():
    theta = torch.zeros(2, requires_grad=True)
    for optimizer, name in (
        (torch.optim.SGD([theta], lr=0.1), "SGD"),
        (torch.optim.AdamW([theta], amsgrad=True), "AdamW with amsgrad"),
    ):
        with pytest.raises(ValueError, match=f"the optimizer is {name}. Set accounting.ledger"):
            Books(optimizer, lambda: 0.0, lambda batches: None)
