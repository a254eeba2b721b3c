"""An engine that is given images: its logprobs are the packed model's, and it writes no image token."""

import pytest

from isentropic.models.tiny_vision import write_vision_model
from isentropic.rollout.torchvision_cpu import missing


@pytest.mark.engine
@pytest.mark.skipif(missing() != "", reason=missing())
def test_engine_and_learner_agree_on_prompts_with_images_before_and_after_a_load(
    tmp_path, printed_by
):
    (tmp_path / "model").mkdir()
    write_vision_model(tmp_path / "model")
    found = printed_by("image_engine.py", tmp_path, timeout_s=300)
    assert found["before"] < 5e-5
    assert found["after"] < 5e-5
    assert found["first"] != found["second"]  # the load had an effect
    image, _ = found["banned"]
    assert [tokens.count(image) for tokens in found["first"]] == [
        4,
        4,
        4,
        4,
        4,
        4,
        0,
        0,
    ]  # the prompts' alone


def test_without_torchvision_it_is_said_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("ISENTROPIC_TORCHVISION", str(tmp_path))
    monkeypatch.setattr("isentropic.rollout.torchvision_cpu.find_spec", lambda name: None)
    assert f"neither installed nor in {tmp_path}. On a CPU `make vlm`" in missing()
