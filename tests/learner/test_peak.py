"""The planner's peak of an update, against what FSDP's memory tracker counts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig

from isentropic.config import LearnerConfig
from isentropic.learner import estimate

HERE = Path(__file__).parent
PLATFORM = HERE.parents[1] / "platform"
TILE = 1 << 27
RANKS = 8
SHAPES = {  # hidden, MLP, layers, heads, heads of keys, vocabulary
    "1.5 B": (1536, 8960, 28, 12, 2, 151936),
    "7 B": (3584, 18944, 28, 28, 4, 152064),
    "14 B": (5120, 13824, 48, 40, 8, 152064),
    "32 B": (5120, 27648, 64, 40, 8, 152064),
}
NAMES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)


def learner():
    values = {
        "num_ranks": RANKS,
        "updates_per_rollout": 1,
        "microbatch_tokens": 20480,
        "dtype": "bfloat16",
        "lr": 1e-6,
        "lr_schedule": "constant",
        "warmup_updates": 0,
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.99,
        "adam_eps": 1e-8,
        "max_grad_norm": 1.0,
        "max_skipped_updates": 1,
        "gradient_checkpointing": True,
        "compile": False,
        "vocab_chunk": 16384,
        "unsharded_gradient_gib": 0.0,
        "balance": "tokens",
        "head": "torch",
        "replicas": 1,
        "context_parallel": 1,
        "timeout_s": 60.0,
        "collective_timeout_s": 60.0,
    }
    return LearnerConfig(**values)


# Made as the file is read: a new key of LearnerConfig shows in every run of the tests, not in the slow ones only.
CONFIG = learner()


def tracked(shape, config):
    """Bytes of the peak by the tracker, at all layers: on the line through 2 and 4 of them."""
    case = {
        "shape": shape,
        "ranks": RANKS,
        "tile": TILE,
        "reduce": config.unsharded_gradient_gib == 0,
        "learner": {name: getattr(config, name) for name in LearnerConfig.__dataclass_fields__},
    }
    command = [sys.executable, str(HERE / "tracked.py"), json.dumps(case)]
    env = os.environ | {"PYTHONPATH": str(PLATFORM)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)["total"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_peak(name, monkeypatch):
    monkeypatch.setattr(estimate, "MAX_TILE", TILE)
    sizes = dict(zip(NAMES, SHAPES[name], strict=True))
    window = {"max_position_embeddings": 131072, "tie_word_embeddings": False}
    shape = {"model_type": "qwen2", **window, **sizes}

    planned = estimate.estimate_rank_bytes(AutoConfig.for_model(**shape), CONFIG).total

    assert planned == pytest.approx(tracked(shape, CONFIG), rel=0.1)
