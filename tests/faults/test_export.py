"""What a run has trained, as a model that others load."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]


def export(*arguments):
    command = [sys.executable, str(ROOT / "jobs" / "export.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def exported(golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    answer = export(f"run={golden}", f"to={folder}")
    assert answer.returncode == 0, answer.stderr
    assert f"to serve it: vllm serve {folder}\n" in answer.stdout
    return folder


def test_transformers_loads_it(exported, tiny_model_path):
    """All weights are there, under their names, and they are not those that the run began with."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, about = AutoModelForCausalLM.from_pretrained(exported, output_loading_info=True)
    before = AutoModelForCausalLM.from_pretrained(tiny_model_path).state_dict()
    assert not any(about[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    moved = [
        name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])
    ]
    assert set(moved) == set(before)
    assert AutoTokenizer.from_pretrained(exported).encode("1+1") == AutoTokenizer.from_pretrained(
        tiny_model_path
    ).encode("1+1")


def test_its_card(exported):
    card = (exported / "README.md").read_text()
    assert "# fault, step 5" in card and "| weights | float32, all of them trained |" in card
    assert str(exported.parent) not in card


def test_refusals(golden, tmp_path):
    for arguments, told in (
        ((tmp_path,), "has no config.yaml"),
        ((golden, "step=3"), "has no checkpoint of step 3"),
        ((golden, "--to", golden), "has files already"),
    ):
        answer = export(*arguments)
        assert answer.returncode == 2 and told in answer.stderr


@pytest.mark.slow
def test_vllm_loads_it(exported, rollouts):
    """Its logprobs are those of transformers on the same tokens."""
    from transformers import AutoModelForCausalLM

    from isentropic.rollout.vllm_engine import VllmEngine

    engine = VllmEngine(
        str(exported), rollouts.config(), max_length=rollouts.max_length, device="cpu"
    )
    try:
        requests = rollouts.requests(2, 1, max_tokens=8)
        found = {each.key: each for batch in engine.generate(requests) for each in batch}
    finally:
        engine.close()
    model = AutoModelForCausalLM.from_pretrained(exported)
    for request in requests:
        sampled = found[request.key]
        tokens = torch.tensor([[*request.token_ids, *sampled.token_ids]])
        with torch.no_grad():
            logprob = model(tokens).logits[0].log_softmax(-1)
        start = len(request.token_ids) - 1
        own = logprob[start : start + len(sampled.token_ids)].gather(
            1, torch.tensor(sampled.token_ids)[:, None]
        )
        torch.testing.assert_close(torch.tensor(sampled.logprob), own[:, 0], atol=1e-4, rtol=0)
