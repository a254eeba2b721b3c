"""A tiny learner that reads images, and its samples; as a script, a rank of `test_images.py`.

python image_ranks.py RANK FOLDER
"""

import pickle
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from isentropic import batching
from isentropic.config import LearnerConfig, ModelConfig
from isentropic.learner import sharding
from isentropic.learner.learner import Learner
from isentropic.models.pretrained import load_chat
from isentropic.models.tiny_vision import write_vision_model
from isentropic.objectives.ce_gppo import CeGppoConfig
from isentropic.objectives.tokens.reductions import TokenMean
from isentropic.records import Prompt, Rollout, RolloutKey, Sample
from isentropic.tasks.figures import draw

TEMPERATURE = 0.8
OBJECTIVE = CeGppoConfig(
    name="ce_gppo", ratio="token", clip_low=0.1, clip_high=0.1, beta1=0.5, beta2=1.0, dual_clip=None
)
CONFIG = LearnerConfig(
    num_ranks=1,
    updates_per_rollout=1,
    microbatch_tokens=10_000,
    dtype="float32",
    lr=1.0,
    lr_schedule="constant",
    warmup_updates=0,
    weight_decay=0.0,
    adam_beta1=0.9,
    adam_beta2=0.999,
    adam_eps=1.0,  # so large that a step follows the gradient and not only its sign
    max_grad_norm=1e9,
    max_skipped_updates=3,
    gradient_checkpointing=False,
    compile=False,
    vocab_chunk=48,
    unsharded_gradient_gib=4.0,
    balance="tokens",
    head="auto",
    timeout_s=60.0,
    collective_timeout_s=60.0,
    replicas=1,
    context_parallel=1,
)


def make_model(folder):
    folder.mkdir()
    write_vision_model(folder)


def picture(folder, name, *, seed, size=56):
    path = Path(folder) / f"{name}.png"
    if not path.exists():  # ranks read what the test has written
        draw(["circle", "square", "triangle"], size, random.Random(seed)).save(path)
    return str(path)


def make_samples(folder):
    """Makes prompts with one image, none, and two of different sizes; two responses each."""
    chat = load_chat(
        ModelConfig(
            name="tiny",
            path=str(folder / "model"),
            revision=None,
            max_length=64,
            trust_remote_code=False,
            warm_start=None,
            image_pixels=None,
        )
    )
    one = picture(folder, "one", seed=1, size=56)
    two = picture(folder, "two", seed=2, size=70)
    wide = picture(folder, "wide", seed=3, size=100)
    rng = np.random.default_rng(0)
    samples = []
    for draw_index, (text, media) in enumerate(
        [
            ("how many?", (one,)),
            ("no image", ()),
            ("<image> or <image>?", (two, wide)),
            ("and here?", (one,)),
        ]
    ):
        prompt = Prompt(
            prompt_id=text, messages=({"role": "user", "content": text},), answer="", media=media
        )
        begin = chat.prompt_ids(prompt)
        for index in range(2):
            length = int(rng.integers(2, 7))
            rollout = Rollout(
                key=RolloutKey("train", draw_index, 0, index),
                prompt=prompt,
                token_ids=np.concatenate([begin, rng.integers(10, 50, length)]),
                turns=((len(begin), len(begin) + length),),
                rollout_logprob=np.zeros(length, np.float32),
                temperature=TEMPERATURE,
                seed=0,
                finish_reason="stop",
                step=1,
                policy_version=0,
                reward=float(index),
            )
            samples.append((rollout, np.full(length, rng.normal(), np.float32)))
    return with_scores(folder, samples)


def with_scores(folder, drawn):
    """Scores the rollouts under the weights that an update will begin with."""
    learner = make_learner(folder)
    batches = batching.score_batches([rollout for rollout, _ in drawn], 1, 10_000)
    scores = batching.unpack_scores(batches, [learner.score(batches[0])], len(drawn))
    learner.close()
    return [
        Sample(
            rollout=rollout, old=score, advantage=advantage, token_weight=np.ones_like(advantage)
        )
        for (rollout, advantage), score in zip(drawn, scores, strict=True)
    ]


def step_batches(samples, world, budget=10_000):
    return batching.step_batches(
        step=1,
        samples=samples,
        plan=batching.plan_updates(samples, 1),
        num_ranks=world,
        microbatch_tokens=budget,
        reduction=TokenMean,
        max_response_tokens=16,
        coefficients=OBJECTIVE.at(1),
    )[0]


def make_learner(folder, rank=0, world=1, meeting=None, **changes):
    settings = {
        "revision": None,
        "max_length": 64,
        "trust_remote_code": False,
        "warm_start": None,
        "image_pixels": None,
    }
    return Learner(
        config=replace(CONFIG, **changes),
        model=ModelConfig(name="tiny", path=str(folder / "model"), **settings),
        objective=OBJECTIVE,
        temperature=TEMPERATURE,
        total_updates=10,
        rank=rank,
        world_size=world,
        init_method=None if meeting is None else f"file://{meeting}",
    )


def main(rank, folder):
    """Makes one update of two ranks, one of them without an image, and one that they share.

    Rank 0 writes the weights after each.
    """
    sharding.ONE_UNIT_BYTES = 0  # sharded by layer, as models that read images are
    samples = make_samples(folder)
    text = [sample for sample in samples if not sample.rollout.prompt.media]
    seen = [sample for sample in samples if sample.rollout.prompt.media]
    found = {}
    for name, batch, changes in (
        ("apart", step_batches([text[0], seen[0]], 2)[rank], {}),
        ("shared", step_batches(samples, 1)[0], {"context_parallel": 2}),
    ):
        learner = make_learner(folder, rank, 2, folder / f"meet {name}", num_ranks=2, **changes)
        learner.update(batch)
        found[name] = {name: weight.clone() for name, weight in learner.named_weights()}
        learner.close()
    if rank == 0:
        (folder / "found.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
