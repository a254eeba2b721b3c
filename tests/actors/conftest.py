"""One Ray with two engines and two learner ranks, for all tests of this folder."""

import asyncio
import os
from functools import partial

import pytest

from isentropic.actors import waiting
from isentropic.actors.launch import start_actors
from isentropic.actors.ray_runtime import start_ray
from isentropic.config import ClusterConfig, LearnerConfig, ModelConfig
from isentropic.learner.learner import Learner
from isentropic.objectives.clip import ClipConfig
from isentropic.rollout.vllm_engine import VllmEngine


def cluster_config(**changes) -> ClusterConfig:
    values = {
        "address": "local", "placement": "apart", "gpus_per_engine": 0.0, "gpus_per_rank": 0.0,
        "cpus_per_engine": 1.0, "cpus_per_rank": 1.0, "strategy": "PACK", "startup_timeout_s": 600.0,
        "object_store_gib": 0.25, "health_timeout_s": 300.0, "max_restarts": 12,
        "max_learner_restarts": 2, "learner_label": None, "rollout_label": None,
    }  # fmt: skip
    return ClusterConfig(**{**values, **changes})


LEARNER = LearnerConfig(
    num_ranks=2, updates_per_rollout=1, microbatch_tokens=10_000, dtype="float32", lr=1e-2, lr_schedule="constant",
    warmup_updates=0, weight_decay=0.0, adam_beta1=0.9, adam_beta2=0.999, adam_eps=1e-8,
    max_grad_norm=1.0, max_skipped_updates=3, gradient_checkpointing=False, compile=False, vocab_chunk=64,
    unsharded_gradient_gib=4.0, balance="tokens", head="auto", timeout_s=300.0, collective_timeout_s=300.0,
    replicas=1, context_parallel=1,
)  # fmt: skip


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """On a busy machine Ray reports a death late, and the one to name would be another."""
    monkeypatch.setattr(waiting, "LATE_DEATH_S", 120.0)


@pytest.fixture
def cluster() -> ClusterConfig:
    return cluster_config()


@pytest.fixture
def learner_config() -> LearnerConfig:
    return LEARNER


@pytest.fixture(scope="session")
def loop():
    """One event loop for the pool's whole life."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def ray_session():
    """A Ray of our own, with logical CPUs for everything in this folder."""
    import ray

    # A secret of the driver at the time when Ray starts: no worker may have it.
    os.environ["CANARY_API_KEY"] = "canary-canary"
    try:
        assert start_ray(cluster_config(), num_cpus=8)
    finally:
        del os.environ["CANARY_API_KEY"]
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def actors(ray_session, loop, tiny_model_path, rollouts):
    model = ModelConfig(
        name="tiny", path=tiny_model_path, revision=None, max_length=rollouts.max_length,
        trust_remote_code=False, warm_start=None, image_pixels=None,
    )  # fmt: skip
    config = rollouts.config(num_actors=2)
    started = loop.run_until_complete(
        start_actors(
            cluster_config(),
            config,
            LEARNER,
            make_engine=partial(
                VllmEngine, tiny_model_path, config, max_length=rollouts.max_length, device="cpu"
            ),
            make_learner=partial(
                Learner,
                config=LEARNER,
                model=model,
                objective=ClipConfig(
                    name="clip", ratio="token", clip_low=0.2, clip_high=0.2, dual_clip=None
                ),
                temperature=1.0,
                total_updates=10,
            ),
        )
    )
    yield started
    started.close()
