"""A head size that the engine lacks is refused before it starts."""

import pytest

from isentropic.rollout.head_sizes import CPU_HEAD_SIZES, unsupported_head_size


@pytest.mark.parametrize("size", [16, 48, 100, 576])
def test_sizes_that_cpus_lack(size):
    reason = unsupported_head_size(size, "cpu")
    assert f"heads have {size} dimensions" in reason and "only 32, 64, 80" in reason
    assert unsupported_head_size(size, "cuda") == ""


@pytest.mark.parametrize("size", [None, *CPU_HEAD_SIZES])
def test_sizes_that_they_have(size):
    assert unsupported_head_size(size, "cpu") == ""


@pytest.mark.engine
def test_the_list_is_that_of_the_installed_engine():
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    assert tuple(CPUAttentionBackend.get_supported_head_sizes()) == CPU_HEAD_SIZES
