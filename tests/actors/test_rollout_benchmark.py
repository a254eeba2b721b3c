"""The benchmark of rollouts: both of its ways run, and draw the same tokens."""

from functools import partial

import pytest

from isentropic.experiments.settings.compose import compose_run
from isentropic.experiments.settings.load import load
from isentropic.rollout.vllm_engine import VllmEngine

pytestmark = pytest.mark.engine


def test_both_ways_draw_the_same_tokens(
    benchmark_script, engine, ray_session, loop, tiny_model_path
):
    benchmark = benchmark_script("rollout")
    config = load(compose_run(benchmark.OVERRIDES))
    make = partial(
        VllmEngine, tiny_model_path, config.rollout, max_length=engine.max_length, device="cpu"
    )
    requests = benchmark.make_requests(prompts=2)

    async def through_pool():  # the pool belongs to the loop
        pool = benchmark.start_pool(make, config)
        try:
            return await benchmark.through_pool(pool, requests)
        finally:
            pool.close()

    tokens = loop.run_until_complete(through_pool())
    assert tokens == benchmark.through_bare_engine(engine, requests) > 2 * benchmark.SAMPLES
