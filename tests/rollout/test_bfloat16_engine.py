"""An engine in bfloat16 takes new weights, whatever layout the processor's kernels keep them in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("bfloat16_engine.py")


@pytest.mark.engine
def test_new_weights_are_those_it_computes_with(tiny_model_path):
    """On processors with AMX vLLM packs each layer's weights when it starts, and drops the parameter."""
    environment = os.environ | {
        "PYTHONPATH": str(SCRIPT.parents[2] / "platform"),
        "OMP_NUM_THREADS": "1",
    }
    ran = subprocess.run(
        [sys.executable, SCRIPT, tiny_model_path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["start"] == found["again"] < 0.02
    assert found["other"] < 0.02 and found["apart"] > 0.1, found
