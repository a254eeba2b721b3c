"""What vLLM is started with, and which weights it takes."""

from typing import Any

import torch

from isentropic.config import RolloutConfig
from isentropic.images import Images, reads_images


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
    }
    if device == "cpu":
        # A seeded request that is prefilled in chunks kills the CPU engine.
        return {**common, "enforce_eager": True, "enable_chunked_prefill": False}
    return {**common, "tensor_parallel_size": config.tensor_parallel}


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
