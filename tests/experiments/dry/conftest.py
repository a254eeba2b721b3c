"""A run and a machine of which all is small enough to count by hand."""

from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from transformers import Qwen3Config

from isentropic.experiments.hydra_main import CONF
from isentropic.experiments.settings.load import load

GIB = 2**30


@pytest.fixture(scope="session")
def settings():
    """Composes a config from overrides."""

    def composed(*overrides):
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            return load(compose("config", list(overrides)))

    return composed


@pytest.fixture(scope="session")
def small():
    """A model of two layers, four heads of 16 and two of keys; embedding and output layer tied."""
    return Qwen3Config(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
    )


@pytest.fixture(scope="session")
def rollout():
    """Makes the part of a config that the sizes of an engine come from."""

    def run(**changes):
        values = {"dtype": "bfloat16", "tensor_parallel": 1, "kv_cache_gib": 1.0}
        return SimpleNamespace(rollout=SimpleNamespace(**(values | changes)))

    return run
