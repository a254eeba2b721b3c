"""What vLLM is started with, and what vLLM makes of it."""

from types import SimpleNamespace

import pytest

from isentropic.rollout.options import engine_options, memory_share

GIB = 2**30


@pytest.mark.parametrize(("devices", "backend"), [(1, "uni"), (2, "mp"), (8, "mp")])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_several_devices_are_several_processes(rollouts, devices, backend, device):
    options = engine_options(rollouts.config(tensor_parallel=devices), 96, device)
    assert options["tensor_parallel_size"] == devices
    assert options["distributed_executor_backend"] == backend


@pytest.mark.engine
def test_in_a_placement_group_vllm_would_choose_ray(rollouts, monkeypatch):
    """That executor refuses an actor's bundle of more than one GPU, and counts those of the ranks."""
    import ray
    from vllm.config import ParallelConfig

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr("ray.util.get_current_placement_group", lambda: object())
    options = engine_options(rollouts.config(tensor_parallel=2), 96, "cuda")
    keys = ("tensor_parallel_size", "distributed_executor_backend")

    assert (
        ParallelConfig(**{key: options[key] for key in keys}).distributed_executor_backend == "mp"
    )
    assert ParallelConfig(tensor_parallel_size=2).distributed_executor_backend == "ray"


def test_the_share_of_a_device(rollouts):
    config = rollouts.config(kv_cache_gib=9.0, tensor_parallel=2)
    # 1.1 x (2 / 2 GiB of weights + 9 GiB of cache)
    assert memory_share(config, 2 * GIB, 80 * GIB) == pytest.approx(11 / 80)
    with pytest.raises(ValueError, match=r"needs 11\.0 GiB on each device .* has 10\.0 GiB"):
        memory_share(config, 2 * GIB, 10 * GIB)


@pytest.mark.engine
def test_an_engine_starts_beside_what_others_hold(rollouts):
    """vLLM's own check, on 80 GiB of which 70 are free: its default wants 92 % of the device."""
    from vllm.config import CacheConfig
    from vllm.v1.worker.utils import request_memory

    device = SimpleNamespace(total_memory=80 * GIB, free_memory=70 * GIB, device_="cuda:0")
    share = memory_share(rollouts.config(kv_cache_gib=16.0), GIB, 80 * GIB)

    request_memory(device, CacheConfig(gpu_memory_utilization=share))
    with pytest.raises(ValueError, match="Free memory on device cuda:0"):
        request_memory(device, CacheConfig())
