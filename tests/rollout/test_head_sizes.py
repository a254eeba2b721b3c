"""A head size that the engine lacks is refused before it starts."""

import pytest

from isentropic.rollout.head_sizes import CPU_HEAD_SIZES, check_head_size


@pytest.mark.parametrize("size", [16, 48, 100, 576])
def test_sizes_that_cpus_lack(size):
    with pytest.raises(ValueError, match=rf"heads have {size} dimensions.*only 32, 64, 80"):
        check_head_size(size, device="cpu")
    check_head_size(size, device="cuda")


@pytest.mark.parametrize("size", [None, *CPU_HEAD_SIZES])
def test_sizes_that_they_have(size):
    check_head_size(size, device="cpu")


@pytest.mark.engine
def test_the_list_is_that_of_the_installed_engine():
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    assert tuple(CPUAttentionBackend.get_supported_head_sizes()) == CPU_HEAD_SIZES
