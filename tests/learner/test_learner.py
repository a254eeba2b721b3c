"""The gradient is that of one process with one big batch, whatever the packing and the ranks."""

import importlib.util
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex
from transformers import AutoModelForCausalLM

from isentropic.durable import file_entry
from isentropic.objectives.loss.leaves import step_loss

SCRIPT = Path(__file__).with_name("ranks.py")
spec = importlib.util.spec_from_file_location("ranks", SCRIPT)
ranks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ranks)

CLOSE = {"rtol": 2e-4, "atol": 2e-6}  # float32, a few hundred terms per sum


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learner")
    ranks.make_model(folder / "model")
    ranks.make_experts(folder / "experts")
    return folder


@pytest.fixture
def make_learner(folder):
    """Makes single-rank learners, one at a time; the one before leaves its process group first."""
    made = []

    def leave():
        while made:
            made.pop().close()

    def make(model=folder / "model", **settings):
        leave()
        made.append(ranks.make_learner(model, **settings))
        return made[-1]

    yield make
    leave()


@pytest.fixture(scope="module", params=["by layer", "whole"])
def two_ranks(folder, request):
    """Runs `ranks.main` in two real processes on gloo and returns what they found, and where."""
    out = folder / request.param
    out.mkdir()
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(SCRIPT.parents[2] / "platform"),
        "PYTHONWARNINGS": "ignore",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(rank), "2", folder, request.param],
            env=environment,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=240)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return pickle.loads((out / "found.pickle").read_bytes()) | {"folder": out}


def plain_update(folder, samples, objective=ranks.OBJECTIVE, model="model"):
    """Makes two updates by the formulas: one sequence at a time, whole logits, AdamW by hand.

    With eps = 1 and lr = 1 AdamW's n-th step is -m / (sqrt(v) + 1), m and v corrected for bias.
    """
    model = AutoModelForCausalLM.from_pretrained(folder / model, attention_dropout=0.0)
    state = {
        name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()
    }
    norms = []
    for step, part in enumerate((samples[:6], samples[6:]), start=1):
        columns = {}
        for sample in part:
            rollout = sample.rollout
            logits = model(torch.tensor(rollout.token_ids)[None]).logits[0, :-1] / ranks.TEMPERATURE
            mask = torch.tensor(rollout.response_mask[1:])
            logp = logits.log_softmax(-1)[mask]
            picked = logp.gather(1, torch.tensor(rollout.token_ids[1:])[mask][:, None])[:, 0]
            values = {
                "logprob": picked,
                "old_logprob": sample.old.logprob,
                "advantage": sample.advantage,
                "token_weight": sample.token_weight,
            }
            for name, value in values.items():
                columns.setdefault(name, []).append(torch.as_tensor(value))
        fields = {name: torch.cat(parts) for name, parts in columns.items()}
        fields["loss_weight"] = torch.full_like(fields["advantage"], 1 / len(fields["advantage"]))
        model.zero_grad()
        step_loss(objective, objective.at(1), fields).loss.sum().backward()
        norms.append(float(torch.stack([p.grad.norm() for p in model.parameters()]).norm()))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                m, v = state[name]
                m.mul_(0.9).add_(0.1 * parameter.grad)
                v.mul_(0.999).add_(0.001 * parameter.grad**2)
                parameter -= (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}, norms


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_one_rank_is_the_plain_loop(folder, make_learner):
    learner = make_learner()
    samples = ranks.with_own_scores(learner, ranks.make_samples())
    before = ranks.weights_of(learner)
    result = learner.update(ranks.step_batches(samples, 1, 10_000)[0])
    expected, norms = plain_update(folder, samples)
    assert [update.grad_norm for update in result.updates] == pytest.approx(norms, rel=1e-4)
    assert_same(ranks.weights_of(learner), expected, **CLOSE)
    moved = expected["model.norm.weight"] - before["model.norm.weight"]
    assert moved.abs().max() > 0.01, "else this test shows nothing"
    assert result.policy_version == 2


def test_adapters_on_two_ranks_are_those_of_one(folder, two_ranks, make_learner):
    """Their shards have the ranks' rows only: rank 3 over two ranks is two rows and one."""
    learner = make_learner(lora=ranks.LORA)
    before = ranks.weights_of(learner)
    samples = ranks.with_own_scores(learner, ranks.make_samples())
    result = learner.update(ranks.step_batches(samples, 1, 10_000)[0])
    norms = [update.grad_norm for update in result.updates]
    assert two_ranks["adapters"]["norms"] == pytest.approx(norms, rel=1e-4)
    assert_same(two_ranks["adapters"]["weights"], ranks.weights_of(learner), **CLOSE)
    moved = two_ranks["adapters"]["weights"]["model.layers.0.mlp.down_proj.weight"]
    assert (moved - before["model.layers.0.mlp.down_proj.weight"]).abs().max() > 0.01

    learner.load(two_ranks["folder"] / "adapters")  # of two ranks, onto one
    assert_same(ranks.weights_of(learner), two_ranks["adapters"]["weights"], rtol=0, atol=0)


@pytest.mark.parametrize(
    "case", ["packed", "small microbatches", "reduced in each", "checkpointed"]
)
def test_two_ranks_are_the_plain_loop(folder, two_ranks, make_learner, case):
    samples = ranks.with_own_scores(make_learner(), ranks.make_samples())
    expected, norms = plain_update(folder, samples)
    assert two_ranks[case]["norms"] == pytest.approx(norms, rel=1e-4)
    assert_same(two_ranks[case]["weights"], expected, **CLOSE)


def test_minibatch_statistics_do_not_see_the_ranks(folder, two_ranks, make_learner):
    """BAPO searches its bounds over all tokens of both ranks, as the plain loop does."""
    samples = ranks.with_own_scores(make_learner(objective=ranks.WHOLE), ranks.make_samples())
    expected, norms = plain_update(folder, samples, ranks.WHOLE)
    assert two_ranks["whole minibatch"]["norms"] == pytest.approx(norms, rel=1e-4)
    assert_same(two_ranks["whole minibatch"]["weights"], expected, **CLOSE)


def test_experts_learn_as_in_the_plain_loop(folder, two_ranks, make_learner):
    samples = ranks.with_own_scores(make_learner(folder / "experts"), ranks.make_samples())
    expected, norms = plain_update(folder, samples, model="experts")
    assert two_ranks["experts"]["norms"] == pytest.approx(norms, rel=1e-4)
    assert_same(two_ranks["experts"]["weights"], expected, **CLOSE)


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}])
def test_routers_are_seen_on_all_ranks_and_once(folder, two_ranks, make_learner, settings):
    """Each response token once: not on its prompt, not in the layers that run again, no filler."""
    learner = make_learner(folder / "experts", **settings)
    samples = ranks.with_own_scores(learner, ranks.make_samples())
    updates = learner.update(ranks.step_batches(samples, 1, 10_000)[0]).updates
    for one, found, part in zip(
        updates, two_ranks["experts"]["routers"], (samples[:6], samples[6:]), strict=True
    ):
        tokens = sum(sample.rollout.num_response_tokens for sample in part)
        assert one.routers.tokens == found.tokens == tokens
        assert (one.routers.load.sum(1) == 2 * tokens).all(), "each takes two experts"
        assert (one.routers.load == found.load).all()
        assert found.entropy == pytest.approx(one.routers.entropy, rel=1e-4)
        assert (found.entropy < tokens * math.log(4)).all()
    assert two_ranks["experts"]["one sample"].tokens == samples[0].rollout.num_response_tokens
    assert (
        make_learner(folder / "model")
        .update(ranks.step_batches(samples[:1], 1, 10_000, updates=1)[0])
        .updates[0]
        .routers
        is None
    )


def test_exported_experts_are_those_of_the_learner(folder, make_learner, tmp_path):
    learner = make_learner(folder / "experts")
    samples = ranks.with_own_scores(learner, ranks.make_samples())
    learner.update(ranks.step_batches(samples, 1, 40)[0])
    learner.export(tmp_path)

    names = set(load_file(tmp_path / "model.safetensors"))
    assert names == set(load_file(folder / "experts" / "model.safetensors")), "as published"
    written = dict(AutoModelForCausalLM.from_pretrained(tmp_path).named_parameters())
    assert_same(
        {k: v.detach() for k, v in written.items()}, ranks.weights_of(learner), rtol=0, atol=0
    )


def test_experts_resume_bit_for_bit(folder, make_learner, tmp_path):
    learner = make_learner(folder / "experts")
    samples = ranks.with_own_scores(learner, ranks.make_samples())
    first, second = (
        ranks.step_batches(part, 1, 40, updates=1)[0] for part in (samples[:6], samples[6:])
    )
    learner.update(first)
    learner.save(tmp_path)
    learner.update(second)
    expected = ranks.weights_of(learner)

    again = make_learner(folder / "experts")
    again.load(tmp_path)
    again.update(second)
    assert_same(ranks.weights_of(again), expected, rtol=0, atol=0)


def test_a_pass_in_float32_of_ranks_in_bfloat16(two_ranks, make_learner):
    found = two_ranks["in float32"]
    one = ranks.scored_in_float32(make_learner(), 0, 2)
    assert len(found) == len(one)
    for logprob, expected in zip(found, one, strict=True):
        np.testing.assert_allclose(logprob, expected, rtol=1e-5)


def test_the_books_do_not_see_the_ranks(two_ranks, make_learner):
    one = ranks.books_of(make_learner(**ranks.BOOKS), 0, 1)
    for found, expected in zip(two_ranks["books"], one, strict=True):
        owned = found.pop("owned")
        assert owned == pytest.approx(expected.pop("owned"), rel=1e-3, abs=1e-7)
        for way in ranks.CLASSES:
            parts = [part for owner, part in owned.items() if owner.startswith(way)]
            parts += [owned["before"], found["decay"]]
            # Compared with the sums over the optimizer's state: the weights round so small a step.
            whole = found["now"] + found["momentum"] + found["decay"]
            assert abs(sum(parts) - whole) < 1e-6 * sum(map(abs, parts))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-7)
        assert found["momentum"] != 0 or expected is one[0]


def test_a_gradient_that_is_not_finite_is_skipped_everywhere(two_ranks):
    """NaN on rank 1 alone: no rank steps, nothing changes, the version stays."""
    assert two_ranks["skipped"]["result"] == (True, 1)
    before, after = two_ranks["skipped"]["weights"]
    assert_same(after, before, rtol=0, atol=0)


def test_resume_is_bitwise_on_the_same_ranks(two_ranks):
    resumed = two_ranks["resumed"]
    assert two_ranks["restored"]["version"] == 1
    assert resumed["norms"][0] == resumed["norms"][1]
    assert_same(resumed["weights"][1], resumed["weights"][0], rtol=0, atol=0)
    assert resumed["random"][0].tolist() == resumed["random"][1].tolist()


def test_each_rank_hashes_the_files_that_it_wrote(folder, two_ranks):
    """Rank 0 also has the index. What it reports is what lies on the disk."""
    written = two_ranks["written"]
    assert written.keys() == {
        path.name for path in (two_ranks["folder"] / "state").glob("__0_*")
    } | {".metadata"}
    others = {path.name for path in (two_ranks["folder"] / "state").iterdir()} - written.keys()
    assert others and all(name.startswith("__1_") for name in others)
    for name, entry in written.items():
        assert entry == file_entry(two_ranks["folder"] / "state" / name)


def test_two_ranks_state_loads_on_one(folder, two_ranks, make_learner):
    """The same weights to the bit, the next gradient to rounding."""
    learner = make_learner(vocab_chunk=7)
    samples = ranks.with_own_scores(learner, ranks.make_samples())
    learner.load(two_ranks["folder"] / "state")
    assert learner.policy_version == 1
    assert_same(ranks.weights_of(learner), two_ranks["restored"]["weights"], rtol=0, atol=0)
    result = learner.update(ranks.step_batches(samples[6:], 1, 10_000, updates=1)[0])
    assert result.updates[0].grad_norm == pytest.approx(two_ranks["resumed"]["norms"][0], rel=1e-4)
    assert_same(ranks.weights_of(learner), two_ranks["resumed"]["weights"][0], **CLOSE)


def test_one_sample_on_two_ranks(two_ranks):
    """A rank with nothing but a filler takes part; the gradient is there and finite."""
    assert 0 < two_ranks["filler"]["norm"] < math.inf


def test_named_weights_are_those_of_hugging_face(folder, two_ranks):
    """Whole tensors in the requested dtype; a tied lm_head is not among them."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    expected = {
        name: (torch.bfloat16, parameter.shape) for name, parameter in model.named_parameters()
    }
    assert two_ranks["half"] == expected


def test_scores_are_those_of_the_plain_model(folder, make_learner):
    """At the training temperature; the config's dropout is off; the reference is the same model."""
    learner = make_learner(reference=True)
    samples = ranks.make_samples(prompts=2)
    batches = ranks.batching.score_batches([sample.rollout for sample in samples], 1, 30)
    scores = ranks.batching.unpack_scores(
        batches, [learner.score(batches[0], reference=True)], len(samples)
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    for sample, score in zip(samples, scores, strict=True):
        with torch.no_grad():
            logits = (
                model(torch.tensor(sample.rollout.token_ids)[None]).logits[0, :-1]
                / ranks.TEMPERATURE
            )
        logp = logits.log_softmax(-1)[torch.tensor(sample.rollout.response_mask[1:])]
        np.testing.assert_allclose(
            score.entropy, -(logp.exp() * logp).sum(-1), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(score.sum_p2, logp.exp().square().sum(-1), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(score.ref_logprob, score.logprob)


def test_update_sees_the_scores_of_the_pass_before_it(make_learner):
    """Packed alike, the first update's logprobs are the old ones to the bit: dropout is off."""
    learner = make_learner()
    samples = ranks.make_samples()
    batches = ranks.batching.score_batches([sample.rollout for sample in samples], 1, 10_000)
    old = learner.score(batches[0])
    (update,) = learner.update(ranks.step_batches(samples, 1, 10_000, updates=1)[0]).updates
    assert update.logprob.tolist() == old[0].logprob.tolist()
    assert update.entropy.tolist() == old[0].entropy.tolist()


@pytest.mark.slow
def test_compiled_layers_learn_the_same(make_learner):
    """The whole layer is one piece: the only breaks are attention's loop over lengths on a CPU.

    Compiled with FSDP's hooks inside, the layers broke wherever a hook stood.
    """
    samples = ranks.with_own_scores(make_learner(), ranks.make_samples())
    batch = ranks.step_batches(samples, 1, 10_000)[0]
    plain = make_learner()
    plain.update(batch)
    expected = ranks.weights_of(plain)

    torch._dynamo.reset()
    counters.clear()
    compiled = make_learner(compile=True)
    compiled.update(batch)

    assert_same(ranks.weights_of(compiled), expected, **CLOSE)
    assert counters["stats"]["unique_graphs"] > 0
    broken = [reason for reason in counters["graph_break"] if "disable" not in reason]
    assert not broken, broken


def test_no_update_changes_nothing(make_learner):
    learner = make_learner()
    result = learner.update(ranks.step_batches([], 1, 100)[0])
    assert (result.updates, result.policy_version) == ((), 0)


def test_exported_folder_is_a_model(folder, make_learner, tmp_path):
    learner = make_learner()
    samples = ranks.make_samples()
    learner.update(ranks.step_batches(samples, 1, 10_000)[0])
    learner.export(tmp_path / "export")
    exported, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "export", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert_same(dict(exported.named_parameters()), ranks.weights_of(learner), rtol=0, atol=0)


def test_bfloat16_stays_near_float32(make_learner):
    """Weights and sums stay in float32: the gradient's norm differs only by bfloat16's rounding."""
    samples = ranks.make_samples()
    exact = make_learner()
    expected = exact.update(ranks.step_batches(samples, 1, 60, updates=1)[0]).updates[0].grad_norm
    learner = make_learner(dtype="bfloat16")
    found = learner.update(ranks.step_batches(samples, 1, 60, updates=1)[0]).updates[0].grad_norm
    assert found == pytest.approx(expected, rel=0.1)
    assert {tensor.dtype for tensor in ranks.weights_of(learner).values()} == {torch.float32}


def test_a_checkpoint_of_another_model_is_refused(make_learner, tmp_path):
    make_learner().save(tmp_path / "state")
    ranks.make_model(tmp_path / "untied", tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"lacks .*lm_head.*another model"):
        make_learner(tmp_path / "untied").load(tmp_path / "state")


def test_a_torn_checkpoint_is_refused(make_learner, tmp_path):
    """No index, half an index, an index of something else."""
    learner = make_learner()
    with pytest.raises(ValueError, match="no checkpoint of a learner, or a torn one"):
        learner.load(tmp_path)
    learner.save(tmp_path / "state")
    index = (tmp_path / "state" / ".metadata").read_bytes()
    for torn, message in (
        (index[: len(index) // 2], "is damaged"),
        (pickle.dumps({}), "holds a dict"),
    ):
        (tmp_path / "state" / ".metadata").write_bytes(torn)
        with pytest.raises(ValueError, match=message):
            learner.load(tmp_path / "state")


def test_an_index_with_foreign_objects_is_refused(make_learner, tmp_path):
    """A pickle that would call something when it is read is refused by name, and not called."""
    learner = make_learner()
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Path.touch))
    with pytest.raises(ValueError, match=r"names (builtins\.getattr|pathlib\.Path)"):
        learner.load(tmp_path)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def call_it_bytes(index, state):
    index.state_dict_metadata["policy_version"] = BytesStorageMetadata()
    payload = next(
        info for place, info in index.storage_data.items() if place.fqn == "policy_version"
    )
    index.storage_data[MetadataIndex("policy_version")] = payload


def call_it_a_tensor(index, state):
    """Leaves the index as it was."""


def name_a_file_outside(index, state):
    (state.parent / "payload.bin").write_bytes((state / "payload.bin").read_bytes())
    for info in index.storage_data.values():
        info.relative_path = "../payload.bin"


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (call_it_bytes, "BytesStorageMetadata, which no checkpoint of ours holds"),
        (call_it_a_tensor, "Weights only load failed"),
        (name_a_file_outside, "outside the checkpoint"),
    ],
)
def test_a_payload_among_the_tensors_is_not_unpickled(make_learner, tmp_path, lie, message):
    """The index points at a stranger's pickle: called bytes, torch by itself would run it."""
    learner, state, called = make_learner(), tmp_path / "state", tmp_path / "called"
    learner.save(state)
    (state / "payload.bin").write_bytes(pickle.dumps(Payload(called)))
    index = pickle.loads((state / ".metadata").read_bytes())
    for place, info in index.storage_data.items():
        if place.fqn == "policy_version":
            info.relative_path = "payload.bin"
            info.offset = 0
            info.length = (state / "payload.bin").stat().st_size
    lie(index, state)
    (state / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(ValueError, match=message):
        learner.load(state)
    assert not called.exists()


def test_more_ranks_need_a_meeting_point(folder):
    with pytest.raises(ValueError, match="2 learner ranks need an init_method"):
        ranks.make_learner(folder / "model", rank=0, world=2)
