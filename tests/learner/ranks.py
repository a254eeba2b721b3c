"""A tiny learner and its batches; run as a script it is one of two ranks of `test_learner.py`.

python ranks.py RANK WORLD_SIZE FOLDER UNIT

UNIT is what is sharded at once: "by layer", or "whole" as models as small as these are.
"""

import pickle
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from isentropic import batching
from isentropic.config import LearnerConfig, LoraConfig, ModelConfig
from isentropic.learner import sharding
from isentropic.learner.learner import Learner
from isentropic.objectives.bapo import BapoConfig
from isentropic.objectives.ce_gppo import CeGppoConfig
from isentropic.objectives.tokens.reductions import TokenMean
from isentropic.records import Prompt, Rollout, RolloutKey, Sample, TokenScores

VOCABULARY = 64
TEMPERATURE = 0.8
OBJECTIVE = CeGppoConfig(
    name="ce_gppo", ratio="token", clip_low=0.1, clip_high=0.1, beta1=0.5, beta2=1.0, dual_clip=None
)
WHOLE = BapoConfig(
    name="bapo",
    ratio="token",
    c_low=0.8,
    c_low_max=0.95,
    c_high=1.2,
    c_high_max=2.0,
    step=0.05,
    target_ratio=1.0,
    dual_clip=None,
)
CONFIG = LearnerConfig(
    num_ranks=1,
    updates_per_rollout=2,
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
    vocab_chunk=24,
    unsharded_gradient_gib=4.0,
    balance="tokens",
    head="auto",
    timeout_s=60.0,
    collective_timeout_s=60.0,
    replicas=1,
    context_parallel=1,
)

LORA = LoraConfig(rank=3, alpha=6.0, targets=("q_proj", "v_proj", "down_proj"))
CLASSES = {"third": ("zero", "one", "two"), "sign": ("up", "down")}
BOOKS = {"lr": 1e-4, "adam_eps": 1e-6, "weight_decay": 0.1, "max_grad_norm": 0.5}


def model_config(folder):
    return ModelConfig(
        name="tiny",
        path=str(folder),
        revision=None,
        max_length=64,
        trust_remote_code=False,
        warm_start=None,
        image_pixels=None,
    )


def make_model(folder, **settings):
    """Writes a random Qwen3: heads that share keys, dropout in its config, tied embeddings."""
    torch.manual_seed(0)
    config = Qwen3Config(**_sizes(**settings))
    Qwen3ForCausalLM(config).save_pretrained(folder)


def make_experts(folder):
    """Writes a random Qwen3-MoE of two layers with four experts each, two of which a token takes."""
    torch.manual_seed(0)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    Qwen3MoeForCausalLM(Qwen3MoeConfig(**_sizes(**experts))).save_pretrained(folder)


def _sizes(**settings):
    sizes = dict(
        tie_word_embeddings=True,
        attention_dropout=0.5,
        initializer_range=0.3,
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
    )
    return sizes | settings


def make_samples(prompts=4, group=3, seed=1):
    """Makes responses of 1 to 12 tokens, some in two turns; ratios on both sides of the clip."""
    rng = np.random.default_rng(seed)
    samples = []
    for draw in range(prompts):
        for index in range(group):
            prompt = rng.integers(1, 6)
            first = rng.integers(1, 7)
            gap = rng.integers(1, 4)
            second = rng.integers(0, 7)
            turns = (
                (prompt, prompt + first),
                (prompt + first + gap, prompt + first + gap + second),
            )
            tokens = int(first + second)
            old = rng.normal(-4.0, 0.5, tokens).astype(np.float32)
            rollout = Rollout(
                key=RolloutKey("train", draw, 0, index),
                prompt=Prompt(prompt_id=str(draw), messages=(), answer=""),
                token_ids=rng.integers(0, VOCABULARY, prompt + first + gap + second),
                turns=turns if second else turns[:1],
                rollout_logprob=old,
                temperature=TEMPERATURE,
                seed=0,
                finish_reason="stop",
                step=1,
                policy_version=0,
                reward=float(index == 0),
            )
            scores = TokenScores(logprob=old, entropy=-old, sensitivity=old, sum_p2=-old)
            samples.append(
                Sample(
                    rollout=rollout,
                    old=scores,
                    advantage=np.full(tokens, rng.normal(), dtype=np.float32),
                    token_weight=rng.uniform(0.5, 1.5, tokens).astype(np.float32),
                )
            )
    return samples


def with_own_scores(learner, samples):
    """Gives the samples the learner's old-policy scores; each rank scores all of them itself."""
    batches = batching.score_batches([sample.rollout for sample in samples], 1, 100)
    scores = batching.unpack_scores(batches, [learner.score(batches[0])], len(samples))
    # Moved apart a little, so that the clip has something to do.
    return [
        replace(sample, old=replace(score, logprob=score.logprob + 0.3 * np.sin(7 * score.logprob)))
        for sample, score in zip(samples, scores, strict=True)
    ]


def step_batches(samples, world, budget, updates=2, objective=OBJECTIVE):
    return batching.step_batches(
        step=1,
        samples=samples,
        plan=batching.plan_updates(samples, updates),
        num_ranks=world,
        microbatch_tokens=budget,
        reduction=TokenMean,
        max_response_tokens=16,
        coefficients=objective.at(1),
    )[0]


def make_learner(folder, rank=0, world=1, meeting=None, objective=OBJECTIVE, **settings):
    reference = settings.pop("reference", False)
    return Learner(
        config=replace(CONFIG, num_ranks=world, **settings),
        model=model_config(folder),
        objective=objective,
        temperature=TEMPERATURE,
        total_updates=100,
        reference=reference,
        rank=rank,
        world_size=world,
        init_method=None if meeting is None else f"file://{meeting}",
        seed=5,
    )


def classed_steps(learner, count=1, rank=0, world=1):
    """`count` equal steps of two updates that sort their tokens two ways; contexts are the rollouts."""
    samples = make_samples()
    step = step_batches(with_own_scores(learner, samples), world, 30)[rank]
    for microbatch in (one for update in step.updates for one in update):
        microbatch.fields["class/third"] = microbatch.target % 3
        microbatch.fields["class/sign"] = (microbatch.fields["advantage"] < 0).astype(np.int64)
    rollouts = [sample.rollout for sample in samples]
    contexts = batching.score_batches(rollouts, world, 30)[rank]
    return [replace(step, contexts=tuple(contexts), classes=CLASSES)] * count


def books_of(learner, rank, world):
    """The books of two updates, owners among them, without what stands per token."""
    (step,) = classed_steps(learner, 1, rank, world)
    updates = learner.update(step).updates
    per_token = ("logprob_slope", "entropy_slope")
    return [
        {name: value for name, value in asdict(update.books).items() if name not in per_token}
        for update in updates
    ]


def scored_in_float32(learner, rank, world):
    """The logprobs of this rank's rollouts, in a pass in float32; those before and after must agree."""
    rollouts = [sample.rollout for sample in make_samples()]
    batches = batching.score_batches(rollouts, world, 30)[rank]
    before = learner.score(batches)
    with sharding.in_float32(learner._model):
        inside = learner.score(batches)
    for one, other in zip(before, learner.score(batches), strict=True):
        assert np.array_equal(one.logprob, other.logprob)
    return [one.logprob for one in inside]


def weights_of(learner):
    return {name: tensor.clone() for name, tensor in learner.named_weights()}


def main(rank, world, folder, unit):
    """Runs every case on this rank; rank 0 writes the results to `unit`/found.pickle."""
    folder = Path(folder)
    out = folder / unit
    if unit == "by layer":
        sharding.ONE_UNIT_BYTES = 0
    samples = make_samples()
    found = {}
    for name, budget, objective, settings in (
        ("packed", 10_000, OBJECTIVE, {}),
        ("small microbatches", 20, OBJECTIVE, {}),
        ("reduced in each", 20, OBJECTIVE, {"unsharded_gradient_gib": 0.0}),
        ("checkpointed", 40, OBJECTIVE, {"gradient_checkpointing": True}),
        ("whole minibatch", 30, WHOLE, {}),
        ("adapters", 30, OBJECTIVE, {"lora": LORA}),
    ):
        learner = make_learner(
            folder / "model", rank, world, out / f"meet {name}", objective, **settings
        )
        scored = with_own_scores(learner, samples)
        batches = step_batches(scored, world, budget, objective=objective)
        result = learner.update(batches[rank])
        found[name] = {
            "weights": weights_of(learner),
            "norms": [update.grad_norm for update in result.updates],
        }
        if name == "adapters":
            learner.save(out / "adapters")
        learner.close()
    learner = make_learner(folder / "experts", rank, world, out / "meet experts")
    scored = with_own_scores(learner, samples)
    updates = learner.update(step_batches(scored, world, 20)[rank]).updates
    found["experts"] = {
        "weights": weights_of(learner),
        "norms": [update.grad_norm for update in updates],
        "routers": [update.routers for update in updates],
    }
    single = step_batches(scored[:1], world, 20, updates=1)[rank]  # a filler on the other rank
    found["experts"]["one sample"] = learner.update(single).updates[0].routers
    learner.close()
    learner = make_learner(folder / "model", rank, world, out / "meet books", **BOOKS)
    found["books"] = books_of(learner, rank, world)
    learner.close()
    learner = make_learner(folder / "model", rank, world, out / "meet half", dtype="bfloat16")
    found["in float32"] = scored_in_float32(learner, rank, world)
    learner.close()
    learner = make_learner(folder / "model", rank, world, out / "meet state")
    scored = with_own_scores(learner, samples)
    first, second = (
        step_batches(part, world, 20, updates=1)[rank] for part in (scored[:6], scored[6:])
    )
    learner.update(first)
    before = weights_of(learner)
    broken = first.updates[0][0].fields["advantage"]
    kept = broken.copy()
    broken[:1] = np.nan if rank == 1 else kept[:1]  # on one rank only
    skipped = learner.update(first)
    broken[:] = kept
    found["skipped"] = {
        "result": (skipped.updates[0].skipped, skipped.policy_version),
        "weights": (before, weights_of(learner)),
    }
    found["written"] = learner.save(out / "state")
    one = learner.update(second)
    ahead = weights_of(learner)
    drawn = torch.rand(3)
    learner.load(out / "state")
    found["restored"] = {"weights": weights_of(learner), "version": learner.policy_version}
    again = learner.update(second)
    found["resumed"] = {
        "norms": (one.updates[0].grad_norm, again.updates[0].grad_norm),
        "weights": (ahead, weights_of(learner)),
        "random": (drawn, torch.rand(3)),
    }
    single = step_batches(scored[:1], world, 20, updates=1)[rank]
    found["filler"] = {"norm": learner.update(single).updates[0].grad_norm}
    found["half"] = {
        name: (tensor.dtype, tensor.shape) for name, tensor in learner.named_weights(torch.bfloat16)
    }
    learner.close()
    if rank == 0:
        (out / "found.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
