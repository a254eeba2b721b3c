"""An engine that is given images: its logprobs are the packed model's, and it writes no image token."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from isentropic.models.tiny_vision import write_vision_model
from isentropic.rollout.torchvision_cpu import missing

SCRIPT = Path(__file__).with_name("image_engine.py")


@pytest.mark.engine
@pytest.mark.skipif(missing() != "", reason=missing())
def test_engine_and_learner_agree_on_prompts_with_images_before_and_after_a_load(tmp_path):
    (tmp_path / "model").mkdir()
    write_vision_model(tmp_path / "model")
    environment = os.environ | {
        "PYTHONPATH": str(SCRIPT.parents[2] / "platform"),
        "OMP_NUM_THREADS": "1",
    }
    ran = subprocess.run(
        [sys.executable, SCRIPT, tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
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
