"""Books that balance: the parts of AdamW's step add up to the trapezoid, and the tokens to the step's own part."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from isentropic.learner import sharding
from isentropic.learner.books.update import Books
from isentropic.objectives.loss.leaves import leaf_gradients
from isentropic.objectives.terms import EntropyBonusTerm, TermsConfig

SCRIPT = Path(__file__).with_name("ranks.py")
spec = importlib.util.spec_from_file_location("ranks", SCRIPT)
ranks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ranks)

# Steps small enough that the entropy is nearly straight along them, as in training.
SETTINGS = {"lr": 1e-3, "adam_eps": 1e-6, "weight_decay": 0.1, "max_grad_norm": 0.5}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("books") / "model"
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


def batches_of(learner, updates=2, budget=60, count=2):
    """`count` steps of updates, the contexts being the rollouts that are trained on."""
    samples = ranks.with_own_scores(learner, ranks.make_samples())
    (step,) = ranks.step_batches(samples, 1, budget, updates=updates)
    (contexts,) = ranks.batching.score_batches([sample.rollout for sample in samples], 1, budget)
    return samples, [replace(step, contexts=tuple(contexts))] * count


def pushes(update, microbatches, terms=None, coefficients=None):
    """[N] -d loss / d logprob and d loss / d entropy, in the packed order."""
    fields = {
        name: np.concatenate([batch.fields[name] for batch in microbatches])
        for name in microbatches[0].fields
    }
    fields |= {"logprob": update.logprob, "entropy": update.entropy}
    tensors = {name: torch.as_tensor(value) for name, value in fields.items()}
    objective = ranks.OBJECTIVE
    leaves = leaf_gradients(
        objective, objective.at(1), tensors, terms=terms, term_coefficients=coefficients
    )
    d_entropy = 0 if leaves.d_entropy is None else leaves.d_entropy.double().numpy()
    return -leaves.d_logprob.double().numpy(), d_entropy


def test_the_parts_are_the_change(make_learner):
    learner = make_learner(lr=2e-5)
    _, steps = batches_of(learner)
    for step in steps:
        for update in learner.update(step).updates:
            books = update.books
            change = books.entropy_after - books.entropy_before
            assert books.trapezoid == pytest.approx(change, rel=0.02, abs=1e-6)
            assert books.first == pytest.approx(change, rel=0.2, abs=1e-6)
            assert abs(change) > 1e-5
    assert books.momentum != 0 and books.decay != 0 and books.scale < 1


def test_the_identity_of_the_step(make_learner):
    """The trapezoid is measured on the weights; its parts are computed from the optimizer's state."""
    learner = make_learner(lr=0.1)  # large steps: small ones are rounded when the weights take them
    _, steps = batches_of(learner)
    for step in steps:
        for update in learner.update(step).updates:
            books = update.books
            parts = (books.now, books.momentum, books.decay)
            assert sum(parts) == pytest.approx(books.trapezoid, rel=1e-6)


def test_tokens_add_up_to_now(make_learner):
    learner = make_learner()
    _, steps = batches_of(learner)
    for step in steps:
        for update, microbatches in zip(learner.update(step).updates, step.updates, strict=True):
            books = update.books
            push, _ = pushes(update, microbatches)
            tokens = update.learning_rate * books.scale * push * books.logprob_slope
            size = np.abs(tokens).sum()
            assert tokens.sum() == pytest.approx(books.now, abs=5e-4 * size)
            assert size > 1e-5


def test_slopes_are_free_of_the_third_derivative():
    """A score that is cubic in one weight: two passes alone would be off by u^3 times the reach."""
    weight = torch.nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0, eps=1.0)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()  # moves nothing; makes the optimizer's state

    def measure():
        weight.grad = torch.ones_like(weight)  # an entropy whose gradient is 1
        return float(weight.detach())

    def score(microbatches):
        now = weight.detach().clone()
        return now**3, 1 - now**3

    books = Books(optimizer, measure, score)
    weight.grad = torch.full_like(weight, 2.0)
    books.before(grad_norm=2.0, max_norm=10.0)
    optimizer.step()
    measured = books.after([])

    beta1, beta2 = optimizer.param_groups[0]["betas"]
    denominator = 2.0 * math.sqrt((1 - beta2) / (1 - beta2**2)) + 1.0
    u = (1 - beta1) / (1 - beta1**2) / denominator
    assert measured.logprob_slope == pytest.approx([u * 3 * 0.5**2], rel=1e-6)
    assert measured.entropy_slope == pytest.approx([-u * 3 * 0.5**2], rel=1e-6)


def test_slopes_of_a_learner_in_bfloat16(make_learner):
    """Their passes are in float32: a move of 0.02 in all is less than half a digit of most weights."""
    learner = make_learner(dtype="bfloat16", adam_eps=1.0)
    _, (step,) = batches_of(learner, count=1)
    for update, microbatches in zip(learner.update(step).updates, step.updates, strict=True):
        push, _ = pushes(update, microbatches)
        tokens = update.learning_rate * update.books.scale * push * update.books.logprob_slope
        assert tokens.sum() == pytest.approx(update.books.now, abs=0.02 * np.abs(tokens).sum())


def test_the_change_of_a_learner_in_bfloat16(make_learner):
    """Its entropies before and after are in float32 too: in bfloat16 most weights did not move."""
    learner = make_learner(dtype="bfloat16", lr=2e-5)
    _, (step,) = batches_of(learner, count=1)
    for update in learner.update(step).updates:
        books = update.books
        change = books.entropy_after - books.entropy_before
        assert books.trapezoid == pytest.approx(change, rel=0.1, abs=1e-6)
        assert abs(change) > 1e-5


def test_a_pass_in_float32_inside_training_in_bfloat16(make_learner):
    """It has the bits of a learner in float32, and leaves no trace in the passes that follow."""
    scored, weights = {}, {}
    for dtype, contexts in (("float32", True), ("bfloat16", True), ("bfloat16", False)):
        learner = make_learner(dtype=dtype)
        (batches,) = ranks.batching.score_batches(
            [sample.rollout for sample in ranks.make_samples()], 1, 60
        )
        before = learner.score(batches)
        with sharding.in_float32(learner._model):
            scored[dtype] = learner.score(batches)
        after = learner.score(batches)
        assert all(same(one, other) for one, other in zip(before, after, strict=True))
        (step,) = ranks.step_batches(ranks.make_samples(), 1, 60)
        learner.update(replace(step, contexts=tuple(batches) if contexts else ()))
        weights[dtype, contexts] = ranks.weights_of(learner)
    for one, other in zip(scored["float32"], scored["bfloat16"], strict=True):
        assert same(one, other)
    for name, value in weights["bfloat16", True].items():
        assert torch.equal(value, weights["bfloat16", False][name]), name


def same(one, other):
    return np.array_equal(one.logprob, other.logprob) and np.array_equal(one.entropy, other.entropy)


def test_an_entropy_bonus_has_its_own_part(model, make_learner):
    terms = TermsConfig(
        name="entropy_bonus",
        kl=None,
        entropy_bonus=EntropyBonusTerm(coef=0.3, adaptive=None),
        nll=None,
    )
    learner = make_learner()
    learner.configure(
        config=replace(ranks.CONFIG, **SETTINGS),
        objective=ranks.OBJECTIVE,
        terms=terms,
        total_updates=100,
    )
    _, (step, _) = batches_of(learner)
    step = replace(step, term_coefficients={"entropy_bonus": 0.3})
    for update, microbatches in zip(learner.update(step).updates, step.updates, strict=True):
        books = update.books
        push, d_entropy = pushes(update, microbatches, terms, {"entropy_bonus": 0.3})
        rate = update.learning_rate * books.scale
        by_logprob = rate * push * books.logprob_slope
        by_entropy = -rate * d_entropy * books.entropy_slope
        size = np.abs(by_logprob).sum() + np.abs(by_entropy).sum()
        assert (by_logprob + by_entropy).sum() == pytest.approx(books.now, abs=5e-4 * size)
        assert by_entropy.sum() > 0  # a bonus lifts the entropy


def test_training_has_the_same_bits(make_learner):
    weights = []
    for contexts in (True, False):
        learner = make_learner()
        _, steps = batches_of(learner)
        for step in steps:
            learner.update(step if contexts else replace(step, contexts=()))
        weights.append(ranks.weights_of(learner))
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_a_skipped_update_moved_nothing(make_learner):
    learner = make_learner()
    _, (step, _) = batches_of(learner, updates=1)
    step.updates[0][0].fields["advantage"][:] = np.nan
    (update,) = learner.update(step).updates
    books = update.books

    assert update.skipped
    assert (books.now, books.momentum, books.decay, books.scale) == (0, 0, 0, 0)
    assert books.entropy_before == books.entropy_after
    assert not books.logprob_slope.any() and len(books.logprob_slope) == len(update.logprob)
