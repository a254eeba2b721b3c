"""Every metric of every step is the same for any microbatch budget, to rounding: on a real learner, one rank."""

import math

import numpy as np
import pytest

from isentropic.learner.learner import Learner

UNSTABLE = ("time/", "throughput/", "mismatch/", "sync/")


class OneRank:
    """A real learner behind the protocol; the fake engine goes on sampling uniformly."""

    num_ranks = 1

    def __init__(self, learner, weights):
        self._learner, self._weights = learner, weights

    async def score(self, batches, *, reference):
        return [self._learner.score(batches[0], reference=reference)]

    async def update(self, batches):
        return [self._learner.update(batches[0])]

    async def publish(self):
        return self._weights(self._learner.policy_version, np.zeros(8))

    async def begin_save(self, folder):
        self._learner.begin_save(folder)

    async def end_save(self):
        self._learner.end_save()


@pytest.fixture
def lines(fake_run, fakes, tiny_model_path):
    def run(name, *overrides):
        made = fake_run(
            "run.steps=2",
            "rollout.probe_tolerance=100",  # the engine is not this learner's
            "reduction=sequence_mean",
            *overrides,
            folder=name,
        )
        config = made.config
        model = type(config.model)(
            **{**vars(config.model), "path": str(tiny_model_path), "max_length": 64}
        )
        learner = Learner(
            config=config.learner,
            model=model,
            objective=config.objective,
            terms=config.terms,
            temperature=config.rollout.temperature,
            total_updates=8,
        )
        made.learner = OneRank(learner, fakes["weights"])
        try:
            return made.run().lines.lines
        finally:
            learner.close()

    return run


def test_packing_changes_no_metric(lines):
    whole, cut = (
        lines("whole", "learner.microbatch_tokens=4096"),
        lines("cut", "learner.microbatch_tokens=24"),
    )
    for step in (1, 2):
        for key, value in whole[step].items():
            if not key.startswith(UNSTABLE) and isinstance(value, float) and not math.isnan(value):
                assert cut[step][key] == pytest.approx(value, rel=1e-3, abs=2e-5), key
