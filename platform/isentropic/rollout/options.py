"""What vLLM is started with, and which weights it takes."""

from typing import Any

import torch

from isentropic.config import RolloutConfig
from isentropic.images import Images, reads_images

WORKSPACE = 1.1  # of weights and cache: activations, graphs, buffers


def engine_options(config: RolloutConfig, max_length: int, device: str) -> dict:
    """Returns vLLM's arguments; each line that is not obvious was once silently wrong, or fatal."""
    common = {
        "dtype": config.dtype,
        "max_model_len": max_length,
        "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": max(max_length, config.max_num_seqs, 8192),
        # Without it vLLM asks for most of the machine.
        "kv_cache_memory_bytes": int(config.kv_cache_gib * 2**30),
        # The default's logprobs ignore the temperature.
        "logprobs_mode": "processed_logprobs",
        # Reset at every load, or requests would read blocks of the old weights.
        "enable_prefix_caching": True,
        "tensor_parallel_size": config.tensor_parallel,
        # In a placement group vLLM would choose Ray, which wants a bundle for each GPU and counts
        # those of the ranks too. The engine's own process has all its devices, and no others.
        "distributed_executor_backend": "mp" if config.tensor_parallel > 1 else "uni",
    }
    if device == "cpu":
        # A seeded request that is prefilled in chunks kills the CPU engine.
        return {**common, "enforce_eager": True, "enable_chunked_prefill": False}
    return common


def memory_share(config: RolloutConfig, weight_bytes: int, device_bytes: int) -> float:
    """Returns the share of a device that vLLM finds free before it starts, or it refuses to start.

    That is this device's part of the weights, its cache, and a tenth for workspace. vLLM's default
    is 92 % of the device, whatever the engine needs.

    Raises ValueError if the engine needs more than the device has.
    """
    cache = config.kv_cache_gib * 2**30
    share = WORKSPACE * (weight_bytes / config.tensor_parallel + cache) / device_bytes
    if share > 1:
        raise ValueError(
            f"an engine needs {share * device_bytes / 2**30:.1f} GiB on each device (of it "
            f"rollout.kv_cache_gib={config.kv_cache_gib:g}), a device has "
            f"{device_bytes / 2**30:.1f} GiB. Lower rollout.kv_cache_gib, or spread the weights "
            "with rollout.tensor_parallel."
        )
    return share


def image_options(images: Images | None) -> dict:
    """Returns arguments that keep images as they are: they come at their final size."""
    if images is None:
        return {}
    low, high = images.limits
    size = {"shortest_edge": low, "longest_edge": high}
    return {"mm_processor_kwargs": {"size": size}, "limit_mm_per_prompt": {"video": 0}}


def parameter_shapes(config: Any, trust_remote_code: bool) -> dict[str, tuple[int, ...]]:
    """Returns the shapes that published weights must have, from a model built without memory."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    make = AutoModelForImageTextToText if reads_images(config) else AutoModelForCausalLM
    with torch.device("meta"):
        model = make.from_config(config, trust_remote_code=trust_remote_code)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
