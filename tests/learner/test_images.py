"""Images in packed sequences are scored as the Hugging Face model scores one sequence at a time."""

import importlib.util
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from isentropic import batching
from isentropic.images import load_images
from isentropic.learner.images import ImageReader

SCRIPT = Path(__file__).with_name("image_ranks.py")
spec = importlib.util.spec_from_file_location("image_ranks", SCRIPT)
image_ranks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(image_ranks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    image_ranks.make_model(folder / "model")
    return folder


@pytest.fixture(scope="module")
def samples(folder):
    return image_ranks.make_samples(folder)


@pytest.fixture
def learner(folder):
    learner = image_ranks.make_learner(folder)
    yield learner
    learner.close()


def reference_logprobs(folder, rollout, *, media=None):
    """Computes one rollout's logprobs [N] by the model's own forward, unpacked.

    Image tokens are never chosen.
    """
    lm = AutoModelForImageTextToText.from_pretrained(folder / "model", dtype=torch.float32).eval()
    media = rollout.prompt.media if media is None else media
    patches = [
        load_images(str(folder / "model"), lm.config, None).patches(reference)
        for reference in media
    ]
    tokens = torch.from_numpy(rollout.token_ids)[None]
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if patches:
        inputs["mm_token_type_ids"] = (tokens == lm.config.image_token_id).int()
        pixels = np.concatenate([image.pixels for image in patches])
        inputs["pixel_values"] = torch.from_numpy(pixels)
        inputs["image_grid_thw"] = torch.from_numpy(np.stack([image.grid for image in patches]))
    with torch.no_grad():
        logits = lm(**inputs).logits[0]
    logits[:, [lm.config.image_token_id, lm.config.video_token_id]] = -torch.inf
    logprobs = (logits / image_ranks.TEMPERATURE).log_softmax(-1)[:-1]
    logprob = logprobs.gather(1, tokens[0, 1:, None])[:, 0]
    return logprob[torch.from_numpy(rollout.response_mask[1:])].numpy()


def scores(learner, samples, budget=10_000):
    rollouts = [sample.rollout for sample in samples]
    batches = batching.score_batches(rollouts, 1, budget)
    return batching.unpack_scores(batches, [learner.score(batches[0])], len(rollouts))


def test_a_pack_of_one_two_and_no_images_scores_as_the_model_does_alone(folder, samples, learner):
    assert {len(sample.rollout.prompt.media) for sample in samples} == {0, 1, 2}
    for budget in (10_000, 30):  # all in one microbatch; microbatches with and without images
        for sample, score in zip(samples, scores(learner, samples, budget), strict=True):
            np.testing.assert_allclose(
                score.logprob, reference_logprobs(folder, sample.rollout), rtol=0, atol=2e-5
            )


def test_another_image_gives_other_scores(folder, samples, learner):
    sample = next(sample for sample in samples if len(sample.rollout.prompt.media) == 1)
    other = image_ranks.picture(folder, "other", seed=99)  # of the same size
    [score] = scores(learner, [sample])
    with_other = reference_logprobs(folder, sample.rollout, media=(other,))
    assert np.abs(score.logprob - with_other).max() > 1e-2


def test_the_vision_tower_learns(samples, learner):
    before = {name: weight.clone() for name, weight in learner.named_weights()}
    learner.update(image_ranks.step_batches(samples, 1)[0])
    changed = {
        name for name, weight in learner.named_weights() if not torch.equal(weight, before[name])
    }
    tower = {name for name in before if "visual" in name}
    assert tower
    assert tower <= changed


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"microbatch_tokens": 1}])
def test_checkpointing_and_packing_change_nothing(folder, samples, changes):
    after = []
    for settings in ({}, changes):
        learner = image_ranks.make_learner(folder, **settings)
        budget = settings.get("microbatch_tokens", 10_000)
        learner.update(image_ranks.step_batches(samples, 1, budget)[0])
        after.append({name: weight.clone() for name, weight in learner.named_weights()})
        learner.close()
    for name, weight in after[0].items():
        torch.testing.assert_close(after[1][name], weight, rtol=2e-4, atol=2e-6)


def test_two_ranks_of_which_one_has_no_image_learn_what_one_rank_learns(
    two_ranks, samples, learner
):
    text = [sample for sample in samples if not sample.rollout.prompt.media]
    seen = [sample for sample in samples if sample.rollout.prompt.media]
    chosen = [text[0], seen[0]]  # by their lengths, each rank gets one
    by_rank = image_ranks.step_batches(chosen, 2)
    has_image = [bool(batch.media) for rank in by_rank for batch in rank.updates[0]]
    assert sorted(has_image) == [False, True]
    learner.update(image_ranks.step_batches(chosen, 1)[0])
    assert_same(two_ranks["apart"], learner)


def test_ranks_that_share_images_learn_what_one_rank_learns(two_ranks, samples, learner):
    """Each sees the image tokens in its part of the tokens."""
    [batch] = image_ranks.step_batches(samples, 1)[0].updates[0]
    inputs = learner._images.inputs(batch)
    half = -(-len(batch.token_ids) // 2)
    assert inputs.place.min() < half <= inputs.place.max(), "one rank has no image"
    learner.update(image_ranks.step_batches(samples, 1)[0])
    assert_same(two_ranks["shared"], learner)


def assert_same(found, learner):
    for name, weight in learner.named_weights():
        torch.testing.assert_close(
            found[name], weight, rtol=2e-4, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.fixture(scope="module")
def two_ranks(folder):
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(SCRIPT.parents[2] / "platform"),
        "PYTHONWARNINGS": "ignore",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(rank), folder], env=environment, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=240)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return pickle.loads((folder / "found.pickle").read_bytes())


def test_what_is_exported_is_read_back_with_its_images(folder, samples, learner, tmp_path):
    learner.export(tmp_path / "export")
    expected = reference_logprobs(folder, samples[0].rollout)
    lm = AutoModelForImageTextToText.from_pretrained(tmp_path / "export", dtype=torch.float32)
    weights = dict(learner.named_weights())
    shapes = {name: weight.shape for name, weight in weights.items()}
    assert {name: weight.shape for name, weight in lm.named_parameters()} == shapes
    (tmp_path / "model").symlink_to(tmp_path / "export")
    np.testing.assert_allclose(
        reference_logprobs(tmp_path, samples[0].rollout), expected, rtol=0, atol=1e-6
    )


def test_an_image_that_was_changed_after_its_prompt_was_drawn_is_named(folder, samples):
    rollout = next(sample.rollout for sample in samples if len(sample.rollout.prompt.media) == 1)
    larger = image_ranks.picture(folder, "larger", seed=1, size=112)
    changed = replace(rollout, prompt=replace(rollout.prompt, media=(larger,)))
    [[batch]] = batching.score_batches([changed], 1, 100)
    lm = AutoModelForImageTextToText.from_pretrained(folder / "model")
    reader = ImageReader(
        load_images(str(folder / "model"), lm.config, None), lm.model.get_rope_index, 2
    )
    with pytest.raises(ValueError, match=r"has 4 image tokens, its images make 16.*larger\.png"):
        reader.inputs(batch)


def test_samples_of_one_prompt_share_their_image(samples, learner):
    rollout = next(sample.rollout for sample in samples if len(sample.rollout.prompt.media) == 1)
    [[batch]] = batching.score_batches([rollout, rollout, rollout], 1, 1000)
    inputs = learner._images.inputs(batch)
    assert inputs.grid.tolist() == [[1, 4, 4]]
    assert inputs.feature.tolist() == [0, 1, 2, 3] * 3
