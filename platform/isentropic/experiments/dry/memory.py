"""Bytes that a run needs on each GPU and each node, by what they are for."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PretrainedConfig

from isentropic.config import Config, ModelConfig
from isentropic.experiments.dry.machines import GIB, Load
from isentropic.experiments.dry.work import Work
from isentropic.learner.estimate import RankBytes, estimate_rank_bytes, head_size
from isentropic.learner.model import count_idle_parameters, count_parameters, empty_model
from isentropic.models.slices import find_places
from isentropic.objectives.loss.needs import needs_reference
from isentropic.rollout.options import WORKSPACE
from isentropic.weights.parcels import PARCEL_BYTES

ENGINE_OVERHEAD = 2 * GIB  # imports and workspace of an engine's process; 1.8 GiB measured on a CPU
RANK_OVERHEAD = GIB  # same of a learner rank
CUDA_HOST = 2 * GIB  # of either, more on a GPU: libraries and pinned buffers. Rough.
# What two processes hold of one GPU whoever's turn it is: contexts, graphs, buffers of NCCL. Rough.
SHARED_OVERHEAD = 3 * GIB
ALONE_OVERHEAD = 2 * GIB  # same of one process with a GPU of its own
BYTES_PER_TOKEN = 150  # of a step's batch in the driver and in Ray's object store
OBJECT_STORE_SHARE = 0.3  # of a node's memory, Ray's choice
SHM_SHARE = 0.95  # of /dev/shm that Ray takes at most


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What one rank and one engine need, and what they share."""

    rank: RankBytes
    engine_weights: int  # on each device of an engine
    engine_cache: int  # same
    cache_tokens: int | None
    published: int  # the weights, as they travel to the engines
    largest: int  # the largest tensor in float32, which a rank loads through host memory
    whole: int = 0  # the model in float32, if each rank loads all of it on its host; 0: by slices
    batch: int  # of a step, on the head node

    @property
    def engine(self) -> int:
        return self.engine_weights + self.engine_cache


def loaded_whole(model: ModelConfig, network: PretrainedConfig) -> bool:
    """Returns whether each rank loads the whole model on its host, as `learner.sharding.build` does.

    Files that are not here are taken to be readable by slices, except those of a mixture of
    experts, which mostly hold each expert by itself.
    """
    if Path(model.path).is_dir():
        with suppress(ValueError):  # a file that is missing or damaged is found by others
            return find_places(model, empty_model(model)) is None
    return count_idle_parameters(network) > 0


def find_needs(
    config: Config, model: PretrainedConfig, work: Work, *, whole: bool = False
) -> Needs:
    """The needs of a run, with the weights' bytes from the model's shapes.

    whole: each rank loads the whole model on its host.
    """
    rollout = config.rollout
    parameters = count_parameters(model)
    text = model.get_text_config(decoder=True)
    width = getattr(torch, rollout.dtype).itemsize
    return Needs(
        rank=estimate_rank_bytes(
            model,
            config.learner,
            longest=rollout.max_prompt_tokens + rollout.max_response_tokens,
            reference=needs_reference(config.objective, config.terms),
            on_gpu=bool(config.cluster.gpus_per_rank),
            books=config.accounting.ledger.every > 0,
        ),
        engine_weights=parameters * width // rollout.tensor_parallel,
        engine_cache=int(rollout.kv_cache_gib * GIB),
        cache_tokens=cache_tokens(model, config),
        published=parameters * width,
        largest=4 * text.vocab_size * text.hidden_size,
        whole=4 * parameters if whole else 0,
        batch=int(work.most_tokens) * BYTES_PER_TOKEN,
    )


def cache_tokens(model: PretrainedConfig, config: Config) -> int | None:
    """Tokens that an engine's key-value cache holds; None if the model keeps no heads in it."""
    per_token = cache_bytes_per_token(model, config)
    return None if per_token is None else int(config.rollout.kv_cache_gib * GIB) // per_token


def cache_bytes_per_token(model: PretrainedConfig, config: Config) -> int | None:
    """Bytes of a token on each device of an engine; None if the model keeps no heads."""
    model = model.get_text_config(decoder=True)
    head_dim = head_size(model)
    if head_dim is None:
        return None
    heads = getattr(model, "num_key_value_heads", None) or model.num_attention_heads
    width = getattr(torch, config.rollout.dtype).itemsize
    heads = max(1, heads // config.rollout.tensor_parallel)
    return 2 * model.num_hidden_layers * heads * head_dim * width


def gpu_bytes(config: Config, needs: Needs) -> dict[str, int]:
    """Bytes that the GPU of a rank and that of an engine must have, by whose it is.

    On a shared GPU the larger one counts, as they take turns: the side that has left it has all its
    state on the host, or none. What its process keeps there comes on top, and what a rank lends.
    """
    rank, engine = needs.rank.total, int(WORKSPACE * needs.engine)
    if config.cluster.placement == "shared":
        engine += lent_bytes(config, needs)
        return {"rank and engine": max(rank, engine) + SHARED_OVERHEAD}
    return {"rank": rank + ALONE_OVERHEAD, "engine": engine + ALONE_OVERHEAD}


def lends(config: Config) -> bool:
    """Returns whether engines map the weights of the ranks on their own devices."""
    return config.cluster.placement == "shared" and config.weights.transport == "broadcast"


def lent_bytes(config: Config, needs: Needs) -> int:
    """What a load of weights needs on a shared GPU besides the engine's own weights.

    A parcel of the rank, the tensor that is gathered into it and its shard in float32, and the
    engine's copy of a parcel. Beside a full cache: an engine may come back while others draw.
    """
    if not lends(config):
        return 0
    largest = needs.largest * getattr(torch, config.rollout.dtype).itemsize // 4
    parcel = min(needs.published, max(PARCEL_BYTES, largest))
    shards = config.learner.num_ranks // config.learner.replicas
    return 2 * parcel + largest + needs.largest // shards


def host_parts(config: Config, needs: Needs, load: Load, *, is_head: bool) -> dict[str, int]:
    """Bytes of a node's memory, by what they are for."""
    on_gpus = bool(config.cluster.gpus_per_rank)
    rank = needs.rank
    more = CUDA_HOST if on_gpus else 0
    tensor_parallel = config.rollout.tensor_parallel
    # AdamW's moments and the trained weights, copied before they are written.
    checkpoint = rank.optimizer * 3 // 2
    on_cpu = 0 if on_gpus else max(rank.total, needs.whole + rank.weights)
    parts = {
        "ranks": load.ranks * (RANK_OVERHEAD + more + on_cpu),
        "checkpoint copies": load.ranks * checkpoint,
        "entropy ledger": load.ranks * rank.books_on_host,
        "engines": load.engines
        * (ENGINE_OVERHEAD + more + (0 if on_gpus else needs.engine))
        * tensor_parallel,
        "object store": object_store(config, needs) if load.ranks or load.engines else 0,
        # Rank 0's alone, but which node that is the plan does not know.
        "weights to broadcast": kept_to_broadcast(config, needs) if load.ranks else 0,
    }
    if on_gpus:
        # Both at once: a checkpoint is written while the engines work.
        away = rank.state if config.cluster.placement == "shared" else 0
        parts["ranks that are away"] = load.ranks * away
        # A whole model is on the host at the start, before there is anything to copy from a rank.
        copies = ("checkpoint copies", "entropy ledger", "ranks that are away")
        later = sum(parts[name] for name in copies)
        parts["loading"] = max(load.ranks * needs.largest, load.ranks * needs.whole - later)
    if is_head:
        parts["step's batch"] = needs.batch
    return {name: size for name, size in parts.items() if size}


def object_store(config: Config, needs: Needs) -> int:
    """The weights twice: those of the last sync are kept for a revived engine. Sent ones: never."""
    return 0 if config.weights.transport == "broadcast" else 2 * needs.published


def kept_to_broadcast(config: Config, needs: Needs) -> int:
    """The same in rank 0's own memory, if it broadcasts; lent weights are on its device."""
    broadcasts = config.weights.transport == "broadcast" and not lends(config)
    return 2 * needs.published if broadcasts else 0
