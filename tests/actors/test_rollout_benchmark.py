"""The benchmark of rollouts: both of its ways run, and draw the same tokens."""

import importlib.util
import sys
from functools import partial
from pathlib import Path

import pytest

from isentropic.experiments.settings.compose import compose_run
from isentropic.experiments.settings.load import load
from isentropic.rollout.vllm_engine import VllmEngine

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "rollout.py"
    spec = importlib.util.spec_from_file_location("rollout_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))  # a script puts `platform` first
        spec.loader.exec_module(module)
    return module


def test_both_ways_draw_the_same_tokens(benchmark, engine, ray_session, loop, tiny_model_path):
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
