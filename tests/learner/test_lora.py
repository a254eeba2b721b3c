"""Adapters are trained, nothing else is; and what engines get is what the learner multiplies by."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft.tuners import lora as peft_lora
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from isentropic.config import LoraConfig
from isentropic.learner.state import SafeReader
from isentropic.models.adapters import Adapter, MergedLinear, _Product, add_adapters, merge

SCRIPT = Path(__file__).with_name("ranks.py")
spec = importlib.util.spec_from_file_location("ranks", SCRIPT)
ranks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ranks)

LORA = ranks.LORA
SMALL_STEPS = {"lr": 1e-2, "adam_eps": 1e-6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    ranks.make_model(folder / "model")
    return folder


@pytest.fixture
def make_learner(folder):
    made = []

    def make(model=folder / "model", **settings):
        while made:
            made.pop().close()
        made.append(ranks.make_learner(model, **({"lora": LORA} | settings)))
        return made[-1]

    yield make
    while made:
        made.pop().close()


def a_step(learner, budget=60):
    return ranks.step_batches(ranks.with_own_scores(learner, ranks.make_samples()), 1, budget)[0]


def test_the_product_has_the_derivative_of_the_merged_matrix():
    torch.manual_seed(0)
    x, weight, bias, down, up = (
        torch.randn(shape, dtype=torch.float64)
        for shape in ((2, 3, 5), (4, 5), (4,), (2, 5), (4, 2))
    )
    inputs = [each.requires_grad_() for each in (x, down, up)]

    def product(x, down, up):
        return _Product.apply(x, weight, bias, down, up, 1.5)

    assert torch.autograd.gradcheck(product, inputs)
    torch.testing.assert_close(product(*inputs), x @ (weight + 1.5 * up @ down).T + bias)


def test_a_layer_gives_what_peft_s_own_gives(folder):
    lm = AutoModelForCausalLM.from_pretrained(folder / "model")
    add_adapters(lm, LORA)
    layer = lm.model.layers[1].self_attn.q_proj
    assert isinstance(layer, MergedLinear)
    torch.nn.init.normal_(layer.adapter.down)
    torch.nn.init.normal_(layer.adapter.up)
    x = torch.randn(2, 7, 32)
    torch.testing.assert_close(layer(x), peft_lora.Linear.forward(layer, x))


def test_the_policy_starts_as_the_frozen_model(make_learner):
    samples = [sample.rollout for sample in ranks.make_samples()]
    (batch,) = ranks.batching.score_batches(samples, 1, 1000)
    adapted = make_learner()
    weights = ranks.weights_of(adapted)
    scores = adapted.score(batch)
    whole = make_learner(lora=None)
    for name, weight in ranks.weights_of(whole).items():
        assert torch.equal(weights.pop(name), weight), name
    assert not weights
    for mine, other in zip(scores, whole.score(batch), strict=True):
        assert np.array_equal(mine.logprob, other.logprob)


def gradients_of(learner, batch):
    """The gradients of the first update, by name."""
    learner._backward(batch.updates[0], learner._losses(batch, 0))
    return {
        name: parameter.grad.full_tensor()
        for name, parameter in learner._model.lm.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}, {"compile": True}])
def test_gradients_are_those_of_the_merged_weights(make_learner, tmp_path, settings):
    """d/dB = s dW A^T and d/dA = s B^T dW, where dW is full training's from the exported model."""
    learner = make_learner(**SMALL_STEPS, **settings)
    batch = a_step(learner)
    learner.update(batch)
    learner.export(tmp_path / "merged")
    adapters = {
        name: parameter.detach().full_tensor()
        for name, parameter in learner._model.lm.named_parameters()
        if parameter.requires_grad
    }
    found = gradients_of(learner, batch)
    assert found.keys() == adapters.keys()
    assert len(found) == 2 * 2 * len(LORA.targets), "A and B, two layers"

    expected = gradients_of(make_learner(tmp_path / "merged", lora=None), batch)
    scale = LORA.alpha / LORA.rank
    for name, gradient in found.items():
        layer, kind, _ = name.rsplit(".lora_", 1)[0], name.rsplit(".lora_", 1)[1][0], None
        whole = expected[f"{layer}.weight"]
        down = adapters[f"{layer}.lora_A.default.weight"]
        up = adapters[f"{layer}.lora_B.default.weight"]
        other = scale * (whole @ down.T if kind == "B" else up.T @ whole)
        assert other.abs().max() > 1e-4
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-5)


def test_only_adapters_move_and_only_they_are_kept(make_learner, tmp_path):
    learner = make_learner(**SMALL_STEPS)
    frozen = {
        name: parameter.detach().full_tensor().clone()
        for name, parameter in learner._model.lm.named_parameters()
        if not parameter.requires_grad
    }
    before = ranks.weights_of(learner)
    learner.update(a_step(learner))
    now = dict(learner._model.lm.named_parameters())
    assert all(torch.equal(now[name].full_tensor(), each) for name, each in frozen.items())
    moved = {
        name
        for name, each in ranks.weights_of(learner).items()
        if not torch.equal(each, before[name])
    }
    assert {name.split(".")[-2] for name in moved} == set(LORA.targets)
    trained = [name for name, parameter in now.items() if parameter.requires_grad]
    assert len(learner._optimizer.state) == len(trained) == len(now) - len(frozen)

    learner.save(tmp_path / "state")
    held = SafeReader(tmp_path / "state").read_metadata().state_dict_metadata
    weights = {f"{part}/{name}" for part in ("model", "exp_avg", "exp_avg_sq") for name in trained}
    assert held.keys() == weights | {"policy_version", "frozen", "rng/0/cpu"}


def test_a_resumed_learner_goes_on_bit_for_bit(make_learner, tmp_path):
    learner = make_learner(**SMALL_STEPS)
    batch = a_step(learner)
    learner.update(batch)
    learner.save(tmp_path / "state")
    learner.update(batch)
    expected = ranks.weights_of(learner)
    scores = learner.score(batch.updates[0])

    again = make_learner(**SMALL_STEPS)
    again.load(tmp_path / "state")
    again.update(batch)
    for name, weight in ranks.weights_of(again).items():
        assert torch.equal(weight, expected[name]), name
    for mine, other in zip(again.score(batch.updates[0]), scores, strict=True):
        assert np.array_equal(mine.logprob, other.logprob)


def test_adapters_of_another_model_are_refused(make_learner, tmp_path):
    make_learner().save(tmp_path / "state")
    ranks.make_model(tmp_path / "other", initializer_range=0.2)
    with pytest.raises(ValueError, match="adapters of a model with other weights"):
        make_learner(tmp_path / "other").load(tmp_path / "state")
    with pytest.raises(ValueError, match="it is of another model"):
        make_learner(lora=None).load(tmp_path / "state")
    with pytest.raises(ValueError, match="cannot be read"):
        make_learner(lora=replace(LORA, rank=2)).load(tmp_path / "state")


def test_the_reference_is_the_model_without_its_adapters(make_learner):
    learner = make_learner(reference=True, **SMALL_STEPS)
    batch = a_step(learner)
    start = learner.score(batch.updates[0])
    learner.update(batch)
    moved = learner.score(batch.updates[0], reference=True)
    for one, other in zip(start, moved, strict=True):
        assert np.array_equal(other.ref_logprob, one.logprob)
        assert np.abs(other.logprob - one.logprob).max() > 1e-3
    assert learner._reference is None, "no second model in memory"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_published_weights_are_the_policy_to_the_bit(make_learner, tmp_path, dtype):
    """In bfloat16 too, where a change of a weight may be smaller than its last digit."""
    settings = {"lr": 1e-3, "adam_eps": 1e-6, "dtype": dtype}
    learner = make_learner(**settings)
    batch = a_step(learner)
    learner.update(batch)
    scores = learner.score(batch.updates[0])
    learner.export(tmp_path / "merged", getattr(torch, dtype))
    engine = make_learner(tmp_path / "merged", lora=None, **settings)
    for mine, other in zip(scores, engine.score(batch.updates[0]), strict=True):
        assert np.array_equal(mine.logprob, other.logprob)


def test_a_product_is_rounded_once():
    weight = torch.full((1, 1), 1.0, dtype=torch.bfloat16)
    third = torch.full((1, 1), 1 / 16, dtype=torch.bfloat16)
    adapter = Adapter(third, third, 1.25)  # 1 + 1.25 / 256: above half of bfloat16's last digit
    assert float(merge(weight, adapter)) == 1 + 1 / 128


def test_the_books_of_adapters_balance(make_learner):
    learner = make_learner(lr=1e-3, adam_eps=1e-6, weight_decay=0.1, max_grad_norm=0.5)
    updates = [
        update
        for step in ranks.classed_steps(learner, 2)
        for update in learner.update(step).updates
    ]
    for update in updates:
        books = update.books
        parts = books.now + books.momentum + books.decay
        assert parts == pytest.approx(books.trapezoid, rel=1e-3, abs=1e-7)
        measured = books.entropy_after - books.entropy_before
        assert books.trapezoid == pytest.approx(measured, rel=0.1, abs=1e-5)
        by_way = {}
        for owner, part in books.owned.items():
            way = owner.partition("/")[0]
            by_way[way] = by_way.get(way, 0.0) + part
        before = by_way.pop("before")
        for part in by_way.values():
            expected = books.now + books.momentum
            assert part + before == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert any(abs(update.books.trapezoid) > 1e-4 for update in updates)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"targets": ("q_prog",)}, "'q_prog'.* Did you mean 'q_proj'", id="misspelt"),
        pytest.param({"targets": ("lm_head",)}, "no linear layer in the decoder's", id="head"),
        pytest.param({"rank": 17}, "17 is above 16, the smaller side of .*k_proj", id="rank"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(folder, changes, message):
    lm = AutoModelForCausalLM.from_pretrained(folder / "model")
    with pytest.raises(ValueError, match=message):
        add_adapters(lm, replace(LORA, **{"targets": ("k_proj",)} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, r"learner.lora.rank must be >= 1.*got 0"),
        ({"alpha": 0.0}, r"learner.lora.alpha must be > 0"),
        ({"targets": ()}, r"learner.lora.targets must be a list"),
        ({"targets": ("all", "q_proj")}, r"learner.lora.targets must be a list"),
    ],
)
def test_what_no_model_could_have_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(LORA, **changes)


def test_all_means_every_linear_layer_of_the_decoder(folder):
    lm = AutoModelForCausalLM.from_pretrained(folder / "model")
    add_adapters(lm, LoraConfig(rank=1, alpha=1.0, targets=("all",)))
    adapted = [name for name, each in lm.named_modules() if isinstance(each, MergedLinear)]
    assert len(adapted) == 2 * 7


def test_experts_are_left_out(tmp_path):
    """They are no linear layers: [all] passes them by, and who names them is told."""
    ranks.make_experts(tmp_path)
    lm = AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'down_proj', which is no linear layer.*qwen3_moe"):
        add_adapters(lm, LORA)

    add_adapters(lm, replace(LORA, targets=("all",)))
    adapted = [name for name, each in lm.named_modules() if isinstance(each, MergedLinear)]
    assert len(adapted) == 2 * 4
    assert all(".self_attn." in name for name in adapted)


def memory(model, kind):
    """GiB of a rank in a process of its own: planned, and taken above what its imports take."""
    env = os.environ | {"PYTHONPATH": str(SCRIPT.parents[2] / "platform")}
    command = [sys.executable, str(SCRIPT.with_name("rank_memory.py")), str(model), kind]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_adapters_take_as_much_less_memory_as_planned(tmp_path):
    """Of 54 M parameters: the gradients and moments of all, 12 bytes each, are not there."""
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12}
    config = LlamaConfig(
        vocab_size=32000, num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=64,
        tie_word_embeddings=True, **sizes,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    full, lora = memory(tmp_path, "full"), memory(tmp_path, "lora")

    assert full["took"] == pytest.approx(full["planned"], rel=0.25)
    assert lora["took"] == pytest.approx(lora["planned"], rel=0.25)
    saved = full["planned"] - lora["planned"]
    assert saved > 12 * 50e6 / 2**30
    # A small model's adapters and temporaries are not small beside it: 0.73 of it were saved.
    assert full["took"] - lora["took"] > 0.6 * saved
