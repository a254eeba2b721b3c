"""An engine of two processes in a placement group, as the actors start it: here on CPUs, over gloo."""

import asyncio
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from isentropic.actors.launch import start_actors
from isentropic.config import ModelConfig
from isentropic.learner.learner import Learner
from isentropic.objectives.clip import ClipConfig
from isentropic.records import MicroBatch
from isentropic.rollout.vllm_engine import VllmEngine

# Two more processes import vLLM: a minute and more on two cores.
pytestmark = [pytest.mark.engine, pytest.mark.slow]


def shards_of(lm, rank):
    """vLLM's parameters of one of two processes, cut from those of a Hugging Face Qwen3 by hand."""
    cut = {}
    for name, tensor in lm.state_dict().items():
        parent, _, leaf = name.removesuffix(".weight").rpartition(".")
        if leaf in ("q_proj", "k_proj", "v_proj"):
            cut.setdefault(f"{parent}.qkv_proj.weight", []).append(tensor.chunk(2)[rank])
        elif leaf in ("gate_proj", "up_proj"):
            cut.setdefault(f"{parent}.gate_up_proj.weight", []).append(tensor.chunk(2)[rank])
        elif leaf in ("o_proj", "down_proj"):
            cut[name] = [tensor.chunk(2, dim=1)[rank]]
        elif leaf == "embed_tokens":
            cut[name] = [tensor[64 * rank : 64 * (rank + 1)]]  # vLLM fills 112 rows up to 128
        elif leaf != "lm_head":
            cut[name] = [tensor]
    return {name: np.concatenate([part.numpy() for part in parts]) for name, parts in cut.items()}


def reader():
    """Returns what reads the live parameters of each process, in the engine's actor.

    Made in a function, so that it travels by value.
    """

    def parameters(worker):
        model = worker.model_runner.get_model()
        return {name: value.detach().numpy().copy() for name, value in model.named_parameters()}

    def read(actor):
        return actor._engine.llm.collective_rpc(parameters)

    return read


def test_two_processes_hold_the_learners_weights_to_the_bit(
    ray_session, loop, cluster, learner_config, rollouts, tiny_model_path, write_model
):
    other = write_model(seed=1)  # what the learner publishes; the engine starts with another
    model = ModelConfig(
        name="tiny", path=other, revision=None, max_length=rollouts.max_length,
        trust_remote_code=False, warm_start=None, image_pixels=None,
    )  # fmt: skip
    config = rollouts.config(tensor_parallel=2)
    one_rank = replace(learner_config, num_ranks=1)
    requests = rollouts.requests(3, 2)

    async def published():
        actors = await start_actors(
            replace(cluster, startup_timeout_s=400.0),
            config,
            one_rank,
            make_engine=partial(
                VllmEngine, tiny_model_path, config, max_length=rollouts.max_length, device="cpu"
            ),
            make_learner=partial(
                Learner,
                config=one_rank,
                model=model,
                objective=ClipConfig(
                    name="clip", ratio="token", clip_low=0.2, clip_high=0.2, dual_clip=None
                ),
                temperature=1.0,
                total_updates=10,
            ),
        )
        try:
            await actors.pool.load_weights(await actors.learner.publish())
            (handle,) = actors.pool.handles
            shards = await asyncio.wrap_future(handle.actor.__ray_call__.remote(reader()).future())
            found = {c.key: c async for part in actors.pool.generate(requests) for c in part}
            packed = [[pack(request, found[request.key]) for request in requests]]
            [scores] = await actors.learner.score(packed, reference=False)
            return shards, [found[request.key] for request in requests], scores
        finally:
            actors.close()

    shards, completions, scores = loop.run_until_complete(published())
    lm = AutoModelForCausalLM.from_pretrained(other)
    for rank, live in enumerate(shards):
        wanted = shards_of(lm, rank)
        assert live.keys() == wanted.keys()
        for name, values in wanted.items():
            np.testing.assert_array_equal(live[name][: len(values)], values, err_msg=name)
    for completion, score in zip(completions, scores, strict=True):
        np.testing.assert_allclose(score.logprob, completion.logprob, atol=1e-4)


def pack(request, completion) -> MicroBatch:
    """A completion with its prompt, as the learner packs it."""
    ids = np.concatenate([request.token_ids, completion.token_ids])
    start, tokens = len(request.token_ids), len(completion.token_ids)
    return MicroBatch(
        token_ids=ids,
        position_ids=np.arange(len(ids)),
        cu_seqlens=np.array([0, len(ids)]),
        predict=np.arange(start - 1, len(ids) - 1),
        target=completion.token_ids,
        sequence_id=np.zeros(tokens, dtype=np.int64),
        rows=np.array([0]),
    )
