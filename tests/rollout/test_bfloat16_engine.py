"""An engine in bfloat16 takes new weights, whatever layout the processor's kernels keep them in."""

import pytest


@pytest.mark.engine
def test_new_weights_are_those_it_computes_with(tiny_model_path, printed_by):
    """On processors with AMX vLLM packs each layer's weights when it starts, and drops the parameter."""
    found = printed_by("bfloat16_engine.py", tiny_model_path, timeout_s=600)
    assert found["start"] == found["again"] < 0.02
    assert found["other"] < 0.02 and found["apart"] > 0.1, found
