"""Rollout throughput through the loop's actor path, against the bare engine given the same seeded requests.

    python benchmarks/rollout.py [model folder]

Both engines live at once and take turns, best of `ROUNDS`; prints tokens per second of each and their ratio.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1] / "platform")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import ray  # noqa: E402

from isentropic.actors.engine_handle import EngineHandle  # noqa: E402
from isentropic.actors.ray_runtime import start_ray, worker_env  # noqa: E402
from isentropic.actors.rollout_actor import RolloutActor  # noqa: E402
from isentropic.actors.rollout_pool import RayRolloutPool  # noqa: E402
from isentropic.config import Config  # noqa: E402
from isentropic.experiments.settings.compose import compose_run  # noqa: E402
from isentropic.experiments.settings.load import load  # noqa: E402
from isentropic.records import Request, RolloutKey  # noqa: E402
from isentropic.rollout import Engine  # noqa: E402
from isentropic.rollout.vllm_engine import VllmEngine, vllm_inputs  # noqa: E402
from isentropic.seeds import rollout_seed  # noqa: E402

PROMPTS, SAMPLES, TOKENS, ROUNDS, MAX_LENGTH = 64, 8, 32, 5, 128
OVERRIDES = (
    "experiment=ce_gppo_tiny",
    "rollout.num_actors=1",
    "rollout.max_num_seqs=512",
    "rollout.kv_cache_gib=0.5",
)


def random_model(folder: str) -> str:
    """A random Qwen3 of 0.4 M parameters; without a tokenizer's help, so with ids alone."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    words = Tokenizer(models.WordLevel({str(i): i for i in range(128)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="2").save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=128, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, intermediate_size=384, max_position_embeddings=512, tie_word_embeddings=True, eos_token_id=2,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def make_requests(prompts: int = PROMPTS) -> list[Request]:
    rng = np.random.default_rng(0)
    drawn = [rng.integers(3, 100, size=rng.integers(10, 40)) for _ in range(prompts)]
    return [
        Request(
            key=RolloutKey("train", draw, 0, sample), turn=0, token_ids=prompt, temperature=1.0, max_tokens=TOKENS,
            seed=rollout_seed(0, "train", draw, sample, 0, 0),
        )
        for draw, prompt in enumerate(drawn)
        for sample in range(SAMPLES)
    ]  # fmt: skip


def through_bare_engine(engine: VllmEngine, requests: list[Request]) -> int:
    """vLLM's own batch call: what a script without this project would do."""
    prompts, sampling = zip(*map(vllm_inputs, requests), strict=True)
    outputs = engine.llm.generate(list(prompts), list(sampling), use_tqdm=False)
    return sum(len(output.outputs[0].token_ids) for output in outputs)


async def through_pool(pool: RayRolloutPool, requests: list[Request]) -> int:
    return sum([len(each.token_ids) async for batch in pool.generate(requests) for each in batch])


def start_pool(make_engine: Callable[[], Engine], config: Config) -> RayRolloutPool:
    """One engine in an actor, behind the pool of a run; Ray has been started."""
    env = worker_env(1, **VllmEngine.environment("cpu"))
    actor = RolloutActor.options(num_cpus=1, runtime_env={"env_vars": env}).remote(
        make_engine, False
    )
    limits = {
        "startup_s": config.cluster.startup_timeout_s,
        "health_s": config.cluster.health_timeout_s,
    }
    return RayRolloutPool(
        [EngineHandle(actor, 0, **limits)],
        max_num_seqs=config.rollout.max_num_seqs,
        timeout_s=config.rollout.timeout_s,
        max_restarts=0,
    )


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else random_model(tempfile.mkdtemp())
    config = load(compose_run(OVERRIDES))
    start_ray(config.cluster, num_cpus=2)
    make_engine = partial(VllmEngine, model, config.rollout, max_length=MAX_LENGTH, device="cpu")
    engine, requests = make_engine(), make_requests()
    best = {"bare engine": 0.0, "actor path": 0.0}
    with asyncio.Runner() as runner:

        async def started() -> RayRolloutPool:  # the pool belongs to the loop
            return start_pool(make_engine, config)

        pool = runner.run(started())
        ways = {
            "bare engine": lambda: through_bare_engine(engine, requests),
            "actor path": lambda: runner.run(through_pool(pool, requests)),
        }
        for way in ways.values():
            way()  # the first call of an engine is slower
        for _ in range(ROUNDS):
            for name, way in ways.items():
                start = time.perf_counter()
                tokens = way()
                best[name] = max(best[name], tokens / (time.perf_counter() - start))
    for name, speed in best.items():
        print(f"{name}: {speed:,.0f} tokens/s, best of {ROUNDS}")
    print(f"ratio: {best['actor path'] / best['bare engine']:.3f} (wanted: at least 0.9)")
    ray.shutdown()


if __name__ == "__main__":
    main()
