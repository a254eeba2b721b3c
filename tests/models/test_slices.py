"""Where the weights of a model of the Hub are read from, and what is said if they are nowhere."""

from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import Qwen3Config, Qwen3ForCausalLM

from isentropic.config import ModelConfig
from isentropic.models.slices import find_places, weights_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = ModelConfig(
    name="some",
    path="someone/some-model",
    revision=None,
    max_length=16,
    trust_remote_code=False,
    warm_start=None,
    image_pixels=None,
)


@pytest.fixture
def snapshot(tmp_path, monkeypatch) -> Path:
    """The folder of a download of `MODEL` in the Hub's cache, on a machine without a network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--some-model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    return snapshot


def make_model() -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
    )
    return Qwen3ForCausalLM(config)


@pytest.mark.parametrize("size", ["1GB", "1KB"], ids=["one file", "several files"])
def test_a_name_of_the_hub_is_read_from_its_download(snapshot, size):
    lm = make_model()
    lm.save_pretrained(snapshot, max_shard_size=size)
    (snapshot / "consolidated.safetensors").write_bytes(b"the same weights in a form of their own")

    places = find_places(MODEL, lm)

    assert places.keys() == dict(lm.named_parameters()).keys()
    assert {place.file.parent for place in places.values()} == {snapshot}


def test_without_a_download_or_a_network_the_message_says_what_to_do(snapshot):
    snapshot.rmdir()
    with pytest.raises(
        ValueError, match=r"someone/some-model: its safetensors cannot be downl.*`hf d"
    ):
        weights_folder(MODEL)


def test_other_weight_files_are_refused(snapshot):
    (snapshot / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ValueError, match=r"has no \*.safetensors"):
        weights_folder(MODEL)
