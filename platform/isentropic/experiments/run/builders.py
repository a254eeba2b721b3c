"""Builds what a run's processes start from: an engine, a learner rank, and its settings."""

from functools import partial
from typing import Any

from isentropic.config import Config
from isentropic.experiments.run.prepare import Prepared
from isentropic.learner.learner import Learner
from isentropic.objectives.loss.needs import needs_reference
from isentropic.rollout import ENGINES, Engine


def make_engine(config: Config, prepared: Prepared) -> partial[Engine]:
    """Returns what builds an engine, in its own process."""
    model = prepared.model
    return partial(
        ENGINES[config.rollout.engine],
        model.path,
        config.rollout,
        max_length=model.max_length,
        device=config.cluster.engine_device,
        seed=0,  # every request brings its own
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        sleep_mode=config.cluster.placement == "shared",
        image_pixels=model.image_pixels,
    )


def make_learner(config: Config, prepared: Prepared) -> partial[Learner]:
    """Returns what builds a rank, in its own process."""
    return partial(
        Learner,
        **settings_of(config),
        model=prepared.model,
        temperature=config.rollout.temperature,
        reference=needs_reference(config.objective, config.terms),
        seed=config.seed,
    )


def settings_of(config: Config) -> dict[str, Any]:
    """Returns the arguments of `Learner.configure`, which live ranks can take from another run."""
    return {
        "config": config.learner,
        "objective": config.objective,
        "terms": config.terms,
        "total_updates": config.run.steps * config.learner.updates_per_rollout,
    }
